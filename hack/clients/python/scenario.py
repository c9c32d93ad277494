"""Exercises Leat with Debian's python3-kubernetes: create, get, list, watch, patch and delete.

Usage: scenario.py NAMESPACE, with KUBECONFIG set.
"""

import sys

from kubernetes import client, config, watch

GROUP, VERSION, PLURAL = "batch.leat.dev", "v1alpha1", "tasks"


def task(name, command):
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Task",
        "metadata": {"name": name, "labels": {"client": "python"}},
        "spec": {"command": command},
    }


def main(namespace):
    config.load_kube_config()
    api = client.CustomObjectsApi()
    where = (GROUP, VERSION, namespace, PLURAL)

    def wait(name, phase):
        stream = watch.Watch().stream(
            api.list_namespaced_custom_object, *where, label_selector="client=python", timeout_seconds=60)
        for event in stream:
            seen = event["object"]
            if seen["metadata"]["name"] == name and seen["status"]["phase"] == phase:
                return {c["type"]: c["status"] for c in seen["status"]["conditions"]}
        raise AssertionError(f"task {name} is not {phase} after 60 s")

    api.create_namespaced_custom_object(*where, task("python-good", ["true"]))
    api.create_namespaced_custom_object(*where, task("python-bad", ["false"]))
    good, bad = wait("python-good", "Succeeded"), wait("python-bad", "Failed")
    assert good.get("Complete") == "True" and "Reconciling" not in good, good
    assert bad.get("Failed") == "True" and bad.get("Stalled") == "True", bad

    names = [o["metadata"]["name"] for o in
             api.list_namespaced_custom_object(*where, label_selector="client=python")["items"]]
    assert sorted(names) == ["python-bad", "python-good"], names
    patched = api.patch_namespaced_custom_object(*where, "python-good", {"metadata": {"labels": {"seen": "yes"}}})
    assert patched["metadata"]["labels"]["seen"] == "yes", patched
    got = api.get_namespaced_custom_object(*where, "python-good")
    assert got["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"], got
    try:
        api.create_namespaced_custom_object(*where, task("python-none", []))
        raise AssertionError("a task without a command was created")
    except client.exceptions.ApiException as error:
        assert error.status == 422 and "spec.command" in error.body, error

    for name in names:
        api.delete_namespaced_custom_object(*where, name)
    assert not api.list_namespaced_custom_object(*where, label_selector="client=python")["items"]


main(sys.argv[1])
