"""Helpers for the local machine: process identities, durable files, public addresses."""
