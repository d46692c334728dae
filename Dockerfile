# Sluice as an image: the program and nothing else, run by a user that owns nothing but its state.
#
#   docker build -t sluice .
#   docker run -p 6543:6543 -v ./etc:/etc/sluice:ro -v sluice-state:/var/lib/sluice sluice
#
# /etc/sluice holds pooler.toml with its certificate and keys; let [catalog] path point into /var/lib/sluice.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin sluice

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/sluice --create-home --shell /usr/sbin/nologin sluice
COPY --from=build /build/target/release/sluice /usr/local/bin/sluice
USER sluice
WORKDIR /var/lib/sluice
VOLUME /var/lib/sluice
EXPOSE 6543 5432
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["sluice", "health"]
# serve drains on SIGTERM, which is what docker stop sends.
ENTRYPOINT ["sluice"]
CMD ["serve", "--config", "/etc/sluice/pooler.toml"]
