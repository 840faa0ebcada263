"""`python -m pomona` and `torchrun -m pomona`."""

from pomona.cli.main import main

main()
