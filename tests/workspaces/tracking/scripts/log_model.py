"""A model logged twice and loaded again, with a data set as input, an image and a table."""

import mlflow
import numpy as np
from mlflow.data.numpy_dataset import from_numpy
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

features = np.array([[1.0], [2.0], [3.0]])
model = LinearRegression().fit(features, [2.0, 4.0, 6.0])
is_new = int(mlflow.__version__.split(".")[0]) >= 3
with mlflow.start_run() as run:
    mlflow.log_input(from_numpy(features, name="numbers"), context="training")
    signature = infer_signature(features, model.predict(features))
    first = mlflow.sklearn.log_model(model, "model", signature=signature, registered_model_name="lines")
    mlflow.log_metric("loss", 0.5)
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
    mlflow.log_table({"a": [1, 2]}, "table.json")

    loaded = mlflow.pyfunc.load_model(first.model_uri)
    assert np.allclose(loaded.predict(features), [2.0, 4.0, 6.0])
    assert np.allclose(mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model").predict(features), [2.0, 4.0, 6.0])
    assert np.allclose(mlflow.pyfunc.load_model("models:/lines/1").predict(features), [2.0, 4.0, 6.0])
    assert mlflow.MlflowClient().get_model_version("lines", "1").run_id == run.info.run_id
    seen = mlflow.get_run(run.info.run_id)
    assert seen.inputs is not None
    assert [item.dataset.name for item in seen.inputs.dataset_inputs] == ["numbers"], seen.inputs
    if is_new:
        second = mlflow.sklearn.log_model(model, name="model", params={"depth": 3})
        assert second.model_id != first.model_id
        assert mlflow.get_logged_model(second.model_id).params["depth"] == "3"
        mlflow.set_logged_model_tags(second.model_id, {"stage": "best"})
        mlflow.log_metric("val", 0.25, model_id=second.model_id)
        found = mlflow.search_logged_models(filter_string="metrics.val < 0.5", output_format="list")
        assert [item.model_id for item in found] == [second.model_id], found
        newest = mlflow.search_logged_models(order_by=[{"field_name": "creation_timestamp", "ascending": False}], output_format="list")
        assert [item.model_id for item in newest] == [second.model_id, first.model_id], newest
        assert mlflow.get_logged_model(second.model_id).tags["stage"] == "best"
        outputs = mlflow.get_run(run.info.run_id).outputs
        assert outputs is not None
        assert [output.model_id for output in outputs.model_outputs] == [first.model_id, second.model_id]
        assert np.allclose(mlflow.pyfunc.load_model(second.model_uri).predict(features), [2.0, 4.0, 6.0])
    else:
        assert "mlflow.log-model.history" in seen.data.tags, seen.data.tags
