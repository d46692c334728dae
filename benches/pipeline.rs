//! What it costs to keep count of what a server owes: a transaction of each protocol, and a long pipeline.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sluice::protocol::pipeline::Pipeline;

/// Types of the messages to the server, and of its answers.
struct Exchange {
    name: &'static str,
    requests: &'static [u8],
    answers: &'static [u8],
}

const EXCHANGES: [Exchange; 3] = [
    Exchange {
        name: "a simple query",
        requests: b"Q",
        answers: b"TDCZ",
    },
    Exchange {
        name: "a statement that is prepared, bound and run",
        requests: b"PBDES",
        answers: b"12TDCZ",
    },
    Exchange {
        name: "a prepared statement",
        requests: b"BDES",
        answers: b"2TDCZ",
    },
];

/// `count` of them, the requests all ahead of the first answer.
fn play(pipeline: &mut Pipeline, exchange: &Exchange, count: usize) {
    for _ in 0..count {
        for request in exchange.requests {
            assert!(pipeline.to_server(*request).is_ok());
        }
    }
    for _ in 0..count {
        for answer in exchange.answers {
            assert!(pipeline.from_server(*answer, Some(b'I')).is_ok());
        }
    }
    assert!(pipeline.is_releasable());
}

fn pipelines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    for exchange in &EXCHANGES {
        let mut pipeline = Pipeline::default();
        group.bench_function(exchange.name, |bencher| {
            bencher.iter(|| play(&mut pipeline, exchange, 1));
        });
    }
    let exchange = &EXCHANGES[2];
    group.throughput(Throughput::Elements(1000));
    group.bench_function("a thousand in one go", |bencher| {
        bencher.iter_batched_ref(
            Pipeline::default,
            |pipeline| play(pipeline, exchange, 1000),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, pipelines);
criterion_main!(benches);
