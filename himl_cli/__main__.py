"""`python -m himl_cli`, for where the `himl` program is not on PATH."""

from himl_cli.app import main

if __name__ == "__main__":
    main()
