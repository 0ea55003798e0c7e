"""What all parts need of the machine they run on: processes told apart, whole files, public addresses."""
