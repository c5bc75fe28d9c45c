"""What other tools call their commands, and what it is here."""

from __future__ import annotations

__all__ = ["ELSEWHERE"]

ELSEWHERE = {
    "compare": "`reprokit diff A B` compares two runs, checkpoints or versions.",
    "metrics": "`reprokit show RUN` has a run's metrics, `reprokit ls` those of all, `reprokit diff A B` of two.",
    "params": '`reprokit show RUN` has a run\'s parameters; `reprokit ls --where "params.lr == 0.1"` finds runs.',
    "config": "The project's registry is set in .reprokit/config.yaml, all else by options and REPROKIT_ variables.",
    "add": "`reprokit package build FOLDER NAMESPACE/NAME` makes a version of a folder.",
    "commit": "`reprokit package build FOLDER NAMESPACE/NAME -m MESSAGE` makes a version of a folder.",
    "repro": "`reprokit run RECIPE` runs a recipe, `reprokit reproduce RUN` repeats a run and gives a verdict.",
    "rerun": "`reprokit reproduce RUN` repeats a run and gives a verdict.",
    "checkout": "`reprokit install REF FOLDER` writes a version into a folder.",
    "get": "`reprokit install REF FOLDER` writes a version into a folder, `reprokit checkpoint get RUN` a checkpoint.",
    "download": "`reprokit install REF FOLDER` writes a version into a folder.",
    "upload": "`reprokit push REF TARGET` copies versions and runs into another registry.",
    "fetch": "`reprokit pull REF --from URL` copies versions and runs from another registry.",
    "clone": "`reprokit pull RUN --all --from URL` copies a run with all that it names.",
    "exp": "`reprokit ls` lists runs, `reprokit diff A B` compares them, `reprokit run -p KEY=VALUE` tries a value.",
    "experiments": "`reprokit ls` lists runs, `reprokit diff A B` compares them.",
    "runs": "`reprokit ls` lists runs, `reprokit show RUN` one of them.",
    "list": "`reprokit ls` lists runs and packages.",
    "history": "`reprokit log NAME` is the history of a package, `reprokit ls` lists the runs.",
    "delete": "`reprokit rm REF` deletes a version or a run; `reprokit purge` erases bytes for good.",
    "remove": "`reprokit rm REF` deletes a version or a run; `reprokit purge` erases bytes for good.",
    "dag": "`reprokit lineage REF` shows what a run or a version was made from.",
    "remote": "A registry is named by --registry, REPROKIT_REGISTRY or .reprokit/config.yaml: `reprokit registry ls`.",
    "login": "Who you are is told as the tools of the platform tell it, such as by AWS_ACCESS_KEY_ID: docs/teams.md.",
    "sweep": "Sweeps are not built yet. `reprokit run RECIPE -p KEY=VALUE` runs with another value.",
    "server": "Nothing of reprokit's runs on a server: a registry is a folder or a bucket.",
    "freeze": "`reprokit lock RECIPE` pins environment and data, `reprokit env lock` an environment.",
    "activate": "`reprokit env build RUN` makes a run's environment, and says where it is.",
    "cancel": "`reprokit stop RUN` has a run save and leave, on whatever machine it is.",
    "audit": "`reprokit reproduce RUN` repeats a run; `reprokit verify RUN` recomputes what is stored of it.",
    "check": "`reprokit verify RUN` recomputes what is stored; `reprokit env check RUN` looks whether it can run here.",
}
