// pgx for Go: extended protocol, every query prepared and kept, batches as one pipeline, a pool of its own.
//
// It finds its server where libpq looks for it, in the environment. The table `items (id int primary key, owner text, note
// text)` is there and empty when it starts.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

// The one variable of libpq that pgx does not look at.
func settings() *pgx.ConnConfig {
	config := must(pgx.ParseConfig(""))
	if options, given := os.LookupEnv("PGOPTIONS"); given {
		config.RuntimeParams["options"] = options
	}
	return config
}

func connect() *pgx.Conn { return must(pgx.ConnectConfig(ctx, settings())) }

func require(condition bool) {
	if !condition {
		panic("does not hold")
	}
}

func fails(code string, err error) {
	var fault *pgconn.PgError
	if !errors.As(err, &fault) || fault.Code != code {
		panic(fmt.Sprintf("%v is not %s", err, code))
	}
}

type querier interface {
	QueryRow(ctx context.Context, sql string, arguments ...interface{}) pgx.Row
}

func value[T any](connection querier, sql string, arguments ...interface{}) (found T) {
	check(connection.QueryRow(ctx, sql, arguments...).Scan(&found))
	return found
}

func failure(connection querier, sql string, arguments ...interface{}) error {
	var ignored string
	return connection.QueryRow(ctx, sql, arguments...).Scan(&ignored)
}

func aMegabyteGoesBothWays() {
	connection := connect()
	defer connection.Close(ctx)
	text, content := strings.Repeat("m", megabyte), bytes.Repeat([]byte{0, 1, 255, 7}, megabyte/4)
	equal(value[string](connection, "select $1::text", text), text)
	equal(value[[]byte](connection, "select $1::bytea", content), content)
}

func preparedStatementsOfConnectionsInterleave() {
	// pgx names them lrupsc_1_0, … on each connection.
	var connections []*pgx.Conn
	for number := 0; number < 6; number++ {
		connection := connect()
		defer connection.Close(ctx)
		must(connection.Prepare(ctx, "own", fmt.Sprintf("select $1::int + %d", number)))
		connections = append(connections, connection)
	}
	for turn := 0; turn < rounds; turn++ {
		for number, connection := range connections {
			equal(value[int](connection, "own", turn), turn+number)
			equal(value[int](connection, fmt.Sprintf("select %d + $1::int", number), turn), turn+number)
			equal(value[string](connection, "select $1::text", "shared"), "shared")
		}
	}
	for _, connection := range connections {
		check(connection.Deallocate(ctx, "own"))
		_, err := connection.PgConn().ExecPrepared(ctx, "own", [][]byte{[]byte("1")}, nil, nil).Close()
		fails("26000", err)
	}
}

func aCrowdSharesTheBackends() {
	config := must(pgxpool.ParseConfig(""))
	config.ConnConfig = settings()
	config.MinConns, config.MaxConns = crowd, crowd
	pool := must(pgxpool.ConnectConfig(ctx, config))
	defer pool.Close()
	var everybody sync.WaitGroup
	for number := 0; number < crowd; number++ {
		everybody.Add(1)
		go func(number int) {
			defer everybody.Done()
			owner := fmt.Sprint(number)
			for turn := 0; turn < rounds; turn++ {
				check(pool.BeginFunc(ctx, func(work pgx.Tx) error {
					_, err := work.Exec(ctx, "insert into items values ($1, $2, 'crowd')", number*rounds+turn, owner)
					equal(value[int](work, "select count(*) from items where owner = $1", owner), turn+1)
					return err
				}))
			}
		}(number)
	}
	everybody.Wait()
	equal(value[int](pool, "select count(*) from items where note = 'crowd'"), crowd*rounds)
}

func aBatchIsOnePipeline() {
	connection, other := connect(), connect()
	defer connection.Close(ctx)
	defer other.Close(ctx)
	for turn := 0; turn < rounds; turn++ {
		batch := &pgx.Batch{}
		for number := 0; number < 100; number++ {
			batch.Queue(fmt.Sprintf("select $1::int + %d", number%7), number)
		}
		results := connection.SendBatch(ctx, batch)
		for number := 0; number < 100; number++ {
			var found int
			check(results.QueryRow().Scan(&found))
			equal(found, number+number%7)
		}
		check(results.Close())
		equal(value[int](other, "select 1"), 1)
	}
	batch := &pgx.Batch{}
	batch.Queue("select 1 / $1::int", 0)
	batch.Queue("select $1::int", 1)
	fails("22012", connection.SendBatch(ctx, batch).Close())
	equal(value[int](connection, "select $1::int", 1), 1)
}

func anErrorInATransactionUndoesIt() {
	connection, other := connect(), connect()
	defer connection.Close(ctx)
	defer other.Close(ctx)
	for turn := 0; turn < rounds; turn++ {
		work := must(connection.Begin(ctx))
		must(work.Exec(ctx, "insert into items values ($1, 'undone', '')", 20_000))
		fails("22012", failure(work, "select 1 / $1::int", 0))
		fails("25P02", failure(work, "select $1::int", turn))
		check(work.Rollback(ctx))
		equal(value[int](other, "select count(*) from items where owner = 'undone'"), 0)
		equal(value[int](connection, "select $1::int", 5), 5)
	}
}

func aSavepointOutlivesAnError() {
	connection, other := connect(), connect()
	defer connection.Close(ctx)
	defer other.Close(ctx)
	work := must(connection.Begin(ctx))
	must(work.Exec(ctx, "insert into items values ($1, 'kept', '')", 30_000))
	for turn := 0; turn < 3; turn++ {
		fails("23505", work.BeginFunc(ctx, func(nested pgx.Tx) error {
			_, err := nested.Exec(ctx, "insert into items values ($1, 'kept', '')", 30_000)
			return err
		}))
		equal(value[int](other, "select 1"), 1)
	}
	check(work.Commit(ctx))
	equal(value[int](other, "select count(*) from items where owner = 'kept'"), 1)
}

func rowsAreCopiedInAndOut() {
	connection := connect()
	defer connection.Close(ctx)
	must(connection.Exec(ctx, "delete from items"))
	var rows [][]interface{}
	var text bytes.Buffer
	for key := 0; key < 5000; key++ {
		rows = append(rows, []interface{}{key, "copy", fmt.Sprint("note ", key)})
		fmt.Fprintf(&text, "%d\tcopy\tnote %d\n", key, key)
	}
	insert := func() (int64, error) {
		return connection.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id", "owner", "note"}, pgx.CopyFromRows(rows))
	}
	equal(must(insert()), int64(len(rows)))
	var out bytes.Buffer
	must(connection.PgConn().CopyTo(ctx, &out, "copy (select * from items order by id) to stdout"))
	require(bytes.Equal(out.Bytes(), text.Bytes()))
	_, err := insert()
	fails("23505", err)
	equal(value[int](connection, "select count(*) from items"), len(rows))
}

func aCancelledQueryLeavesTheConnectionUsable() {
	// A context that ends makes pgx close its connection; the cancel is asked for by hand.
	connection, other := connect(), connect()
	defer connection.Close(ctx)
	defer other.Close(ctx)
	for turn := 0; turn < 3; turn++ {
		timer := time.AfterFunc(500*time.Millisecond, func() { check(connection.PgConn().CancelRequest(ctx)) })
		fails("57014", failure(connection, "select pg_sleep(600)::text"))
		timer.Stop()
		equal(value[int](connection, "select $1::int", turn), turn)
		equal(value[int](other, "select $1::int", turn), turn)
	}
}

func settingsStayWithTheirClient() {
	var connections []*pgx.Conn
	fresh := connect()
	defer fresh.Close(ctx)
	standard := value[string](fresh, "show search_path")
	for number := 0; number < 6; number++ {
		config := settings()
		config.RuntimeParams["application_name"] = fmt.Sprint("app", number)
		config.RuntimeParams["work_mem"] = fmt.Sprintf("%dMB", number+5)
		connection := must(pgx.ConnectConfig(ctx, config))
		defer connection.Close(ctx)
		must(connection.Exec(ctx, fmt.Sprintf("set search_path = s%d, public", number)))
		connections = append(connections, connection)
	}
	for turn := 0; turn < rounds; turn++ {
		for number, connection := range connections {
			equal(value[string](connection, "show search_path"), fmt.Sprintf("s%d, public", number))
			equal(value[string](connection, "show work_mem"), fmt.Sprintf("%dMB", number+5))
			require(strings.HasSuffix(value[string](connection, "show application_name"), fmt.Sprint("app", number)))
		}
		equal(value[string](fresh, "show search_path"), standard)
	}
}

func main() {
	run(
		aMegabyteGoesBothWays,
		preparedStatementsOfConnectionsInterleave,
		aCrowdSharesTheBackends,
		aBatchIsOnePipeline,
		anErrorInATransactionUndoesIt,
		aSavepointOutlivesAnError,
		rowsAreCopiedInAndOut,
		aCancelledQueryLeavesTheConnectionUsable,
		settingsStayWithTheirClient,
	)
}
