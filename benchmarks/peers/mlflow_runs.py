"""Make runs in MLflow's SQLite store, or list them all, as a user's script would.

python mlflow_runs.py make sqlite:///FILE COUNT
python mlflow_runs.py list sqlite:///FILE
"""

from __future__ import annotations

import sys


def main() -> None:
    import mlflow
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    what, uri, *rest = sys.argv[1:]
    mlflow.set_tracking_uri(uri)
    if what == "list":
        found = mlflow.search_runs(search_all_experiments=True, max_results=100_000, output_format="list")
        print(len(found))
        return
    client = MlflowClient()
    experiment = client.create_experiment("benchmark")
    for number in range(int(rest[0])):
        run = client.create_run(experiment)
        metrics = [Metric("loss", 1 / (1 + number % 100), number, 0), Metric("accuracy", 0.9, number, 0)]
        params = [Param("rate", str(number % 10)), Param("seed", str(number))]
        client.log_batch(run.info.run_id, metrics=metrics, params=params)
        client.set_terminated(run.info.run_id)


if __name__ == "__main__":
    main()
