"""A parameter that changes is refused, as by MLflow's own server."""

import mlflow

with mlflow.start_run():
    mlflow.log_param("rate", 0.1)
    mlflow.log_param("rate", 0.1)
    code = ""
    try:
        mlflow.log_param("rate", 0.2)
    except mlflow.exceptions.MlflowException as error:
        code = error.error_code
    assert code == "INVALID_PARAMETER_VALUE", code
