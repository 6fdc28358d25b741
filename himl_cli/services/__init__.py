"""The functions of himl, independent of the terminal and of the Azure SDK."""
