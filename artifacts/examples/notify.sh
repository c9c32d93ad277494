#!/bin/sh
# Prints a line for each TaskSet of a namespace that ends, or whose tasks cannot be created:
#   notify.sh NAMESPACE
# It needs kubectl, and the role "view". What happens while it is not running, or connects again, is not printed. See
# docs/how-to/notify.md.
set -eu
namespace=${1:?write the namespace}
# The server ends each watch after some time.
while :; do
  kubectl get events --namespace="$namespace" --watch-only --field-selector=involvedObject.kind=TaskSet \
    --output=jsonpath='{.involvedObject.name}|{.type}/{.reason}|{.message}{"\n"}' || sleep 5
done | while IFS='|' read -r set reason message; do
  case $reason in
    Normal/Completed | Normal/Cancelled | Warning/*) echo "$namespace/$set: ${reason#*/}: $message" ;;
  esac
done
