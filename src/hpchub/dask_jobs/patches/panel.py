"""The list of clusters in the Lab's Dask panel says why workers are not there, and how a cluster really scales.

Its links are paths: the panel does not know a dashboard by another host name than its own page has. A comfort: with a
panel that it does not fit it is left out, and the log says so.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any


def change(manager: ModuleType) -> None:
    """Extend what `dask_labextension.manager` tells the browser about a cluster."""
    make = manager.make_cluster_model

    def make_cluster_model(cluster_id: str, cluster_name: str, cluster: Any, adaptive: Any) -> dict[str, Any]:  # noqa: ANN401 - as upstream
        # not what the panel was last told: a cluster may have been scaled from elsewhere
        adaptive = getattr(cluster, "_adaptive", None)
        scales = adaptive if adaptive is not None and adaptive.state in ("starting", "running") else None
        model: dict[str, Any] = make(cluster_id, cluster_name, cluster, scales)
        words = cluster.shown() if hasattr(cluster, "shown") else ""
        public = os.environ.get("JUPYTERHUB_PUBLIC_URL")
        if public and model["dashboard_link"].startswith(public):
            model["dashboard_link"] = os.environ["JUPYTERHUB_SERVICE_PREFIX"] + model["dashboard_link"][len(public) :]
        return model | ({"name": f"{cluster_name}. {words}"} if words else {})

    vars(manager)["make_cluster_model"] = make_cluster_model
