"""`python -m kilter` is the command `kilter`."""

from kilter.cli import main

if __name__ == "__main__":
    main()
