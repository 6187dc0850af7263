"""`python -m cluster` is the command `kumite`."""

from cluster.cli.main import main

if __name__ == "__main__":
    main()
