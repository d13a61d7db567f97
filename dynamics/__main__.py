"""The `dynamics` command as `python -m dynamics`."""

from __future__ import annotations

from dynamics.cli import main

# A worker process imports this module again, under another name.
if __name__ == "__main__":
    main()
