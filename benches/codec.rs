//! What it costs to look at messages: the headers of a result, and the text of a statement.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::protocol::{
    error::ErrorResponse,
    frame::Header,
    own_settings::OwnSettings,
    residue::{may_forget_statements, of_text},
};

const SHORT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;";

/// What an object mapper sends: many columns, a few joins.
fn long() -> String {
    let columns: Vec<String> = (0..40)
        .map(|n| format!("\"posts\".\"column_{n}\" AS \"posts_column_{n}\""))
        .collect();
    format!(
        "SELECT {} FROM \"posts\" INNER JOIN \"accounts\" ON (\"posts\".\"account_id\" = \"accounts\".\"id\") \
         WHERE \"accounts\".\"deleted_at\" IS NULL AND \"posts\".\"id\" = $1 ORDER BY \"posts\".\"created_at\" DESC LIMIT 21",
        columns.join(", ")
    )
}

fn headers(criterion: &mut Criterion) {
    let row = b"D\0\0\0\x12\0\x02\0\0\0\x014\0\0\0\x03abc".as_slice();
    let rows = row.repeat(16 * 1024 / row.len());
    let mut group = criterion.benchmark_group("headers");
    group.throughput(Throughput::Bytes(rows.len() as u64));
    group.bench_function("of a buffer full of short rows", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(rows.as_slice());
            let mut count = 0;
            while let Ok(Some(header)) = Header::parse(rest) {
                rest = rest.get(header.message_bytes()..).unwrap_or_default();
                count += 1;
            }
            count
        });
    });
    group.finish();
}

/// All that is searched in a text before it goes on.
fn texts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("text");
    for (name, text) in [("short", SHORT.to_owned()), ("long", long())] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let text = black_box(text.as_bytes());
                let mut own = OwnSettings::default();
                own.read(text, true);
                (of_text(text), may_forget_statements(text), own.is_lost())
            });
        });
    }
    group.finish();
}

fn errors(criterion: &mut Criterion) {
    let body = b"SERROR\0VERROR\0C42P01\0Mrelation \"nowhere\" does not exist\0P15\0Fparse_relation.c\0L1392\0RparserOpenTable\0\0";
    criterion.bench_function("an error is read", |bencher| {
        bencher.iter(|| ErrorResponse::parse(black_box(body)));
    });
}

criterion_group!(benches, headers, texts, errors);
criterion_main!(benches);
