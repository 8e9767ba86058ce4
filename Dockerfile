# All programs of marketflow in one image; the command says which one runs:  docker build -t marketflow .
FROM rust:1-bookworm AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ libssl-dev pkg-config zlib1g-dev
WORKDIR /source
COPY . .
RUN cargo build --release --locked --workspace --bins \
    && mkdir /programs \
    && cp target/release/marketflow target/release/tick-producer target/release/candle-producer target/release/flow-producer target/release/processor target/release/sink target/release/archiver target/release/simulator /programs/

FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates libssl3 tzdata zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/marketflow
COPY --from=build /programs/ /usr/local/bin/
# state that outlives a container: the producers' subscriptions and open gaps
ENV MARKETFLOW_HOME=/var/lib/marketflow
VOLUME /var/lib/marketflow
USER 65532:65532
CMD ["marketflow", "--help"]
