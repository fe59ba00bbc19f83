"""`python -m qwenlab` is the `qwenlab` command; `accelerate launch` starts it this way."""

from qwenlab.cli import main

main()
