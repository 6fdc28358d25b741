"""The Azure ML backend. Only this package imports `azure.*`, `msal` and `pycurl`, and only inside functions."""
