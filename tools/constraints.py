"""Print the names and versions of everything installed here, never the address it came from."""

from importlib.metadata import distributions

OURS = {"imagen-platform", "imagen-echo"}
TOOLS = {"pip", "setuptools", "wheel", "uv"}  # what installs is the machine's choice


def main() -> None:
    print("# The versions this was last tested with; setup installs with them. Renewed by `make constraints`.")
    found = {item.name: item.version for item in distributions()}
    for name in sorted(found, key=str.lower):
        if name.lower() not in OURS | TOOLS:
            # What a build of PyTorch is for (`+cpu`, `+cu129`) is the machine's choice too.
            print(f"{name}=={found[name].partition('+')[0]}")


if __name__ == "__main__":
    main()
