"""`python -m finetune_hub.engine COMMAND FILE`: run `commands`, after configuring the allocator before any import."""

from __future__ import annotations

import sys

from finetune_hub.engine.allocator import start_again_tuned

if __name__ == "__main__":
    start_again_tuned()
    from finetune_hub.engine.commands import main

    sys.exit(main())
