"""himl: train on Azure Machine Learning, or here, with one command-line tool."""

__version__ = "0.1.0"
