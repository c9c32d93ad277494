#!/usr/bin/env bash
# Generates code from the types in apis/. Needs Go and Debian's protobuf-compiler, which it installs if it runs as root.
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/leat-dev/leat
internal=$module/apis/batch
versions=($module/apis/batch/v1alpha1)
# A version for tests, which differs. It has no protobuf and no clients.
test_version=$module/test/api/internal/v1test
header=hack/boilerplate.go.txt
tools=$PWD/bin/tools
generated=pkg/generated

# Packages in the module cache, which generators read and must not write.
readonly_packages=(
  k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/types time
)

hack/install-protoc.sh
mkdir -p "$tools"
GOBIN=$tools go install tool
export PATH=$tools:$PATH

find apis pkg test/api/internal \( -name 'zz_generated.*.go' -o -name generated.pb.go -o -name generated.proto \) -delete
# Keep the hand-written methods of clients (*_expansion.go): client-gen expects them beside the generated code.
find "$generated" -type f \( -name generated_expansion.go -o ! -name '*_expansion.go' \) -delete

echo "generate: version for tests"
go run ./hack/testversion

echo "generate: deepcopy, register"
deepcopy-gen --go-header-file $header --output-file zz_generated.deepcopy.go "$internal" "${versions[@]}" $test_version
register-gen --go-header-file $header --output-file zz_generated.register.go "${versions[@]}" $test_version

echo "generate: protobuf"
# protoc resolves imports by path, but paths in the module cache include versions. Build a tree of links without them.
# gogo/protobuf has copies of google/protobuf, which protobuf-compiler of Debian does not include.
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
mkdir -p "$links/k8s.io" "$links/$(dirname $module)"
ln -s "$(go list -m -f '{{.Dir}}' k8s.io/apimachinery)" "$links/k8s.io/apimachinery"
ln -s "$PWD" "$links/$module"
mkdir -p "$links/github.com/gogo"
ln -s "$(go list -m -f '{{.Dir}}' github.com/gogo/protobuf)" "$links/github.com/gogo/protobuf"
machinery=(
  -k8s.io/apimachinery/pkg/util/intstr -k8s.io/apimachinery/pkg/api/resource -k8s.io/apimachinery/pkg/runtime/schema
  -k8s.io/apimachinery/pkg/runtime -k8s.io/apimachinery/pkg/apis/meta/v1
)
go-to-protobuf --go-header-file $header --output-dir "$links" --proto-import "$links" --proto-import "$links/github.com/gogo/protobuf/protobuf" \
  --apimachinery-packages "$(IFS=,; echo "${machinery[*]}")" --packages "$(IFS=,; echo "${versions[*]}")"

echo "generate: defaults, conversions, validations"
defaulter-gen --go-header-file $header --output-file zz_generated.defaults.go "${versions[@]}" $test_version
conversion-gen --go-header-file $header --output-file zz_generated.conversion.go "${versions[@]}" $test_version
# The generated validations of meta/v1 call hand-written functions of the same package. validation-gen finds them only
# in a package that it may write to, so it gets a copy.
cp -r --no-preserve=mode "$(go list -m -f '{{.Dir}}' k8s.io/apimachinery)" "$links/apimachinery"
printf 'go %s\nuse %s\nuse %s\n' "$(go list -m -f '{{.GoVersion}}')" "$PWD" "$links/apimachinery" > "$links/go.work"
GOWORK=$links/go.work validation-gen --go-header-file $header --output-file zz_generated.validations.go \
  "${readonly_packages[@]/#/--readonly-pkg=}" k8s.io/apimachinery/pkg/apis/meta/v1/validation "${versions[@]}" $test_version

echo "generate: openapi"
openapi-gen --go-header-file $header --output-dir $generated/openapi --output-pkg $module/$generated/openapi \
  --output-file zz_generated.openapi.go --output-model-name-file zz_generated.model_name.go \
  --report-filename hack/openapi-violations.list "${readonly_packages[@]/#/--readonly-pkg=}" \
  --readonly-pkg=k8s.io/apimachinery/pkg/apis/meta/v1 --readonly-pkg=k8s.io/apimachinery/pkg/version \
  --readonly-pkg=k8s.io/api/autoscaling/v1 --readonly-pkg=k8s.io/api/authentication/v1 --readonly-pkg=k8s.io/api/authorization/v1 \
  k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version \
  k8s.io/apimachinery/pkg/api/resource k8s.io/api/autoscaling/v1 \
  k8s.io/api/authentication/v1 k8s.io/api/authorization/v1 "${versions[@]}"
openapi-gen --go-header-file $header --output-dir test/api/internal/v1test --output-pkg $test_version \
  --output-file zz_generated.openapi.go --output-model-name-file zz_generated.model_name.go --report-filename /dev/null \
  "${readonly_packages[@]/#/--readonly-pkg=}" --readonly-pkg=k8s.io/apimachinery/pkg/apis/meta/v1 $test_version
# The definitions of upstream's types are in the document above, under their model names.
sed -i 's|"k8s\.io/apimachinery/pkg/apis/meta/v1\.\([A-Z]\w*\)"|"io.k8s.apimachinery.pkg.apis.meta.v1.\1"|g
  s|"k8s\.io/apimachinery/pkg/api/resource\.Quantity"|"io.k8s.apimachinery.pkg.api.resource.Quantity"|g' test/api/internal/v1test/zz_generated.openapi.go

echo "generate: clientset, listers, informers, apply configurations"
# Apply configurations take the structure of types from the OpenAPI document. The generator looks up a type by its Go
# package, but the document has the model name of +k8s:openapi-model-package. A type that it does not find becomes
# untyped without an error, so rename the models for the generator.
model_packages=dev.leat.batch
go_packages=com.github.leat-dev.leat.apis.batch
schema=$links/openapi.json
go run ./hack/openapi-schema | sed "s|\([\"/]\)$model_packages\.|\1$go_packages.|g" > "$schema"
applyconfiguration-gen --go-header-file $header --output-dir $generated/applyconfiguration \
  --output-pkg $module/$generated/applyconfiguration --openapi-schema "$schema" \
  "${versions[@]}"
if grep -A1 "^- name: $go_packages" $generated/applyconfiguration/internal/internal.go | grep 'scalar: untyped'; then
  echo "generate: apply configurations have types without a schema" >&2
  exit 1
fi
find $generated/applyconfiguration -name '*.go' -exec sed -i "s|$go_packages\.|$model_packages.|g" {} +
client-gen --go-header-file $header --output-dir $generated/clientset --output-pkg $module/$generated/clientset \
  --clientset-name versioned --apply-configuration-package $module/$generated/applyconfiguration \
  --input-base $module/apis --input batch/v1alpha1 --prefers-protobuf
lister-gen --go-header-file $header --output-dir $generated/listers --output-pkg $module/$generated/listers "${versions[@]}"
informer-gen --go-header-file $header --output-dir $generated/informers --output-pkg $module/$generated/informers \
  --versioned-clientset-package $module/$generated/clientset/versioned --listers-package $module/$generated/listers \
  "${versions[@]}"

echo "generate: registries"
go run ./hack/registry-gen --go-header-file $header --kinds-package $module/$generated/kinds "${versions[@]}"
go run ./hack/registry-gen --go-header-file $header --output-package $module/test/api/internal/registry "${versions[@]}" $test_version

echo "generate: pages of docs/reference"
go run ./hack/docgen
