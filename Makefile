# make demo    builds Sluice, starts it with a PostgreSQL of its own and shows both kinds of login (ARGS="--port 0 …")
# make check   the same, then a session is granted, seen and revoked, and everything is taken down again
# make test    everything that must hold before a change lands
# make lint    the part of it that runs nothing
# make openapi writes the description of the API, docs/openapi.json, as the routes have it
# make bench   Sluice beside PgBouncer: the tables of docs/performance.md (ARGS="--only logins …", see benches/compare)
# make bench-revocation    how long sessions outlive their revocation (ARGS="--open 1000 …", see benches/revocation)

SHELL := bash
.PHONY: demo check test lint openapi setup build bench bench-revocation

demo: setup
	cargo run --release --locked -- demo $(ARGS)

check: setup
	cargo run --release --locked -- demo --check --port 0 --direct-port 0 --admin-port 0 $(ARGS)

build:
	cargo build --release --locked

bench: setup build
	python3 benches/compare $(ARGS)

bench-revocation: setup build
	python3 benches/revocation $(ARGS)

# The servers and clients that the demo and the tests drive; nothing happens where they are installed already.
setup:
	scripts/client-tools
	scripts/postgres >/dev/null

MOVING_BYTES = bulk:: cancel:: copy:: departures:: hostile_server:: outages:: pipelines:: revocation:: transactions:: unix_sockets::

test: setup lint
	scripts/postgres 15 >/dev/null
	scripts/drivers
	scripts/schemathesis
	cargo test --locked --lib --bins
	# Not nextest: its process per test would start a PostgreSQL per test. Most of them wait more than they work.
	cargo test --locked --test integration -- --test-threads=6 --skip description::
	# What moves bytes, once more without io_uring, and with nothing else.
	for method in epoll io_uring; do \
		SLUICE_TEST_IO_METHOD=$$method cargo test --locked --test integration -- --test-threads=6 $(MOVING_BYTES) || exit 1; \
	done
	# By themselves: thousands of calls leave little of the machine to anybody who has to be in time.
	cargo test --locked --test integration -- description::

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	cargo check --locked --manifest-path fuzz/Cargo.toml --bins --target-dir target/fuzz
	scripts/licences
	if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; fi

openapi:
	UPDATE_EXPECT=1 cargo test --locked --lib the_description_is_what_the_routes_say
