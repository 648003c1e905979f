# The container image of session-bridge: the binary, glibc, the usual certificate authorities, and nothing to write to
# but one volume.
#
#   podman build --tag session-bridge .
#   podman run --read-only --cap-drop=all --publish 8080:8080 \
#     --volume ./session-bridge.toml:/etc/session-bridge/session-bridge.toml:ro \
#     --volume session-bridge:/var/lib/session-bridge session-bridge
#
# Without a configuration file: --env SESSION_BRIDGE_UPSTREAM__URL=http://shop:8000
#
# tests/image builds and runs it without a registry.

# Any image with cargo, rustc, a C compiler and ca-certificates, of the same glibc as RUNTIME or an older one.
ARG BUILDER=docker.io/library/rust:1.95-slim-bookworm
# Any image with glibc and libgcc_s; no command of it is run, so one without a shell does as well
# (gcr.io/distroless/cc-debian12).
ARG RUNTIME=docker.io/library/debian:bookworm-slim

FROM ${BUILDER} AS build
WORKDIR /build

# The dependencies alone: this layer is used again until Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it \
 && touch src/lib.rs tests/it/main.rs \
 && echo 'fn main() {}' > src/main.rs \
 && cargo build --release --locked --bin session-bridge

# The sources. They get a new time, since cargo judges by it and the stand-ins above are younger than them.
COPY src src
RUN find src -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --bin session-bridge \
 && install -D -m 0755 target/release/session-bridge /image/usr/local/bin/session-bridge \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && mkdir -p /state/session-bridge

FROM ${RUNTIME}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="session-bridge" \
      org.opencontainers.image.description="HTTP reverse proxy that gives a stateless client the cookie session of a stateful backend" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /image/ /
# The one directory that is written to; a volume takes its owner from here.
COPY --from=build --chown=65532:65532 /state/ /var/lib/

# A number, so that Kubernetes can see that it is not root (runAsNonRoot). No account of that number is needed.
USER 65532:65532

# The configuration is to be mounted; without one, this file leaves everything at the defaults. A key can also be set
# by the environment (SESSION_BRIDGE_UPSTREAM__URL), which beats the file.
COPY config/container.toml /etc/session-bridge/session-bridge.toml
ENV SESSION_BRIDGE_CONFIG=/etc/session-bridge/session-bridge.toml

# The embedded store is on the volume, since its default is a file in the working directory.
WORKDIR /var/lib/session-bridge
VOLUME /var/lib/session-bridge

# The traffic, and the operators' listener. The latter is on loopback unless `ops.listen` says otherwise.
EXPOSE 8080 9090

STOPSIGNAL SIGTERM
# The command itself gives up after 3 s, and says why.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["session-bridge", "health"]
ENTRYPOINT ["session-bridge"]
CMD ["serve"]
