python -c 'import sys; print(".".join(map(str, sys.version_info[:2])))' > .python-version
cat > uv.lock <<'END'
version = 1
requires-python = ">=3.10"

[[package]]
name = "lungs"
source = { virtual = "." }
dependencies = [{ name = "tqdm" }]

[package.optional-dependencies]
cu124 = [{ name = "toolz" }]

[[package]]
name = "toolz"
version = "1.2.0"
source = { registry = "https://pypi.org/simple" }
sdist = { url = "https://files.pythonhosted.org/toolz-1.2.0.tar.gz", hash = "sha256:00" }

[[package]]
name = "tqdm"
version = "4.70.1"
source = { registry = "https://pypi.org/simple" }
sdist = { url = "https://files.pythonhosted.org/tqdm-4.70.1.tar.gz", hash = "sha256:00" }
END
