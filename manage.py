#!/usr/bin/env python
"""Django's command line, against the stack that `finetune-hub up` runs."""

import os
import sys


def main() -> None:
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_hub.settings")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
