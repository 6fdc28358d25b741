"""Jobs by azureml-core, the vendor's deprecated SDK: what `--sdk v1` submits. Reading such runs is the work of the
other rooms."""
