"""Autologging of a grid search: best parameters on the run, a child for each candidate, the model as an artifact."""

import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

mlflow.sklearn.autolog(max_tuning_runs=None)
features, labels = load_iris(return_X_y=True)
GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0, 10.0]}, cv=2).fit(features, labels)
