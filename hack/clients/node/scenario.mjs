// Exercises Leat with @kubernetes/client-node: create, get, list, watch, patch and delete.
//
// Usage: node scenario.mjs NAMESPACE, with KUBECONFIG set.

import assert from "node:assert/strict";
import { CustomObjectsApi, KubeConfig, Watch } from "@kubernetes/client-node";

const [group, version, plural] = ["batch.leat.dev", "v1alpha1", "tasks"];
const namespace = process.argv[2];
const where = { group, version, namespace, plural };

const config = new KubeConfig();
config.loadFromDefault();
const api = config.makeApiClient(CustomObjectsApi);

const task = (name, command) => ({
  apiVersion: `${group}/${version}`,
  kind: "Task",
  metadata: { name, labels: { client: "node" } },
  spec: { command },
});

// watchFor resolves with the conditions of the task once it is in that phase.
function watchFor(name, phase) {
  return new Promise((resolve, reject) => {
    let stop;
    const deadline = setTimeout(() => reject(new Error(`task ${name} is not ${phase} after 60 s`)), 60_000);
    const done = (conditions) => {
      clearTimeout(deadline);
      resolve(conditions);
      stop?.abort();
    };
    new Watch(config)
      .watch(
        `/apis/${group}/${version}/namespaces/${namespace}/${plural}`,
        { labelSelector: "client=node" },
        (_, seen) => {
          if (seen.metadata.name === name && seen.status.phase === phase) {
            done(Object.fromEntries(seen.status.conditions.map((c) => [c.type, c.status])));
          }
        },
        (error) => {
          if (error && error.name !== "AbortError") reject(error);
        },
      )
      .then((request) => (stop = request), reject);
  });
}

await api.createNamespacedCustomObject({ ...where, body: task("node-good", ["true"]) });
await api.createNamespacedCustomObject({ ...where, body: task("node-bad", ["false"]) });
const good = await watchFor("node-good", "Succeeded");
const bad = await watchFor("node-bad", "Failed");
assert.equal(good.Complete, "True");
assert.equal(good.Reconciling, undefined);
assert.equal(bad.Failed, "True");
assert.equal(bad.Stalled, "True");

const list = await api.listNamespacedCustomObject({ ...where, labelSelector: "client=node" });
assert.deepEqual(list.items.map((o) => o.metadata.name).sort(), ["node-bad", "node-good"]);
const patched = await api.patchNamespacedCustomObject({
  ...where,
  name: "node-good",
  body: [{ op: "add", path: "/metadata/labels/seen", value: "yes" }],
});
assert.equal(patched.metadata.labels.seen, "yes");
const got = await api.getNamespacedCustomObject({ ...where, name: "node-good" });
assert.equal(got.metadata.resourceVersion, patched.metadata.resourceVersion);
await assert.rejects(api.createNamespacedCustomObject({ ...where, body: task("node-none", []) }), (error) => {
  return error.code === 422 && /spec\.command/.test(error.body);
});

for (const { metadata } of list.items) {
  await api.deleteNamespacedCustomObject({ ...where, name: metadata.name });
}
const left = await api.listNamespacedCustomObject({ ...where, labelSelector: "client=node" });
assert.equal(left.items.length, 0);
