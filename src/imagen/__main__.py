"""`python -m imagen` is `imagen`."""

from imagen.surfaces.cli.main import main

if __name__ == "__main__":
    main()
