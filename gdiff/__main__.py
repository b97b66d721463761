"""`python -m gdiff` is the `gdiff` command."""

from gdiff.cli import main

if __name__ == "__main__":
    main()
