# One image with all programs, static, on nothing: "make image".
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN make build VERSION="${VERSION}"

FROM scratch
# For leat-worker outside a cluster, and webhooks with certificates of public authorities.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/bin/leat /src/bin/leat-apiserver /src/bin/leat-controller-manager /src/bin/leat-worker /
USER 65532:65532
ENTRYPOINT ["/leat"]
