// lib/pq for Go, by way of database/sql: a query with parameters is prepared without a name and synchronised, and only then
// bound, which is two trips.
//
// It finds its server where libpq looks for it, in the environment. The table `items (id int primary key, owner text, note
// text)` is there and empty when it starts.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

func open() *sql.DB {
	pool := must(sql.Open("postgres", ""))
	pool.SetMaxOpenConns(crowd)
	pool.SetMaxIdleConns(crowd)
	return pool
}

func fails(code pq.ErrorCode, err error) {
	var fault *pq.Error
	if !errors.As(err, &fault) || fault.Code != code {
		panic(fmt.Sprintf("%v is not %s", err, code))
	}
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, arguments ...any) *sql.Row
}

func value[T any](connection querier, query string, arguments ...any) (found T) {
	check(connection.QueryRowContext(ctx, query, arguments...).Scan(&found))
	return found
}

func failure(connection querier, query string, arguments ...any) error {
	var ignored string
	return connection.QueryRowContext(ctx, query, arguments...).Scan(&ignored)
}

func aMegabyteGoesBothWays() {
	pool := open()
	defer pool.Close()
	text := strings.Repeat("m", megabyte)
	equal(value[string](pool, "select $1::text", text), text)
	equal(string(value[[]byte](pool, "select $1::bytea", []byte(text))), text)
}

func preparedStatementsOfConnectionsInterleave() {
	pool := open()
	defer pool.Close()
	var statements []*sql.Stmt
	for number := 0; number < 6; number++ {
		connection := must(pool.Conn(ctx))
		defer connection.Close()
		statements = append(statements, must(connection.PrepareContext(ctx, fmt.Sprintf("select $1::int + %d", number))))
	}
	for turn := 0; turn < rounds; turn++ {
		for number, statement := range statements {
			var found int
			check(statement.QueryRowContext(ctx, turn).Scan(&found))
			equal(found, turn+number)
		}
	}
}

func aCrowdSharesTheBackends() {
	pool := open()
	defer pool.Close()
	var everybody sync.WaitGroup
	for number := 0; number < crowd; number++ {
		everybody.Add(1)
		go func(number int) {
			defer everybody.Done()
			connection := must(pool.Conn(ctx))
			defer connection.Close()
			owner := fmt.Sprint(number)
			for turn := 0; turn < rounds; turn++ {
				// Outside a transaction too, each query is two trips.
				equal(value[int](connection, fmt.Sprintf("select %d + $1::int", number), turn), number+turn)
				work := must(connection.BeginTx(ctx, nil))
				must(work.Exec("insert into items values ($1, $2, 'crowd')", number*rounds+turn, owner))
				equal(value[int](work, "select count(*) from items where owner = $1", owner), turn+1)
				check(work.Commit())
			}
		}(number)
	}
	everybody.Wait()
	equal(value[int](pool, "select count(*) from items where note = 'crowd'"), crowd*rounds)
}

func anErrorInATransactionUndoesIt() {
	pool := open()
	defer pool.Close()
	for turn := 0; turn < rounds; turn++ {
		work := must(pool.BeginTx(ctx, nil))
		must(work.Exec("insert into items values ($1, 'undone', '')", 20_000))
		fails("22012", failure(work, "select 1 / $1::int", 0))
		fails("25P02", failure(work, "select $1::int", turn))
		check(work.Rollback())
		equal(value[int](pool, "select count(*) from items where owner = $1", "undone"), 0)
	}
}

func rowsAreCopiedIn() {
	pool := open()
	defer pool.Close()
	for _, code := range []pq.ErrorCode{"", "23505"} {
		work := must(pool.BeginTx(ctx, nil))
		copy := must(work.Prepare(pq.CopyIn("items", "id", "owner", "note")))
		for key := 30_000; key < 35_000; key++ {
			if _, err := copy.Exec(key, "copy", "note"); err != nil {
				break
			}
		}
		_, err := copy.Exec()
		if code == "" {
			check(err)
			check(copy.Close())
			check(work.Commit())
		} else {
			fails(code, err)
			// Waits for the end of the answer, which lib/pq reads in a goroutine: rolled back before, two read one
			// connection, and on PostgreSQL itself too one of them may wait for ever.
			copy.Close()
			check(work.Rollback())
		}
	}
	equal(value[int](pool, "select count(*) from items where owner = $1", "copy"), 5000)
}

func aCancelledQueryLeavesTheConnectionUsable() {
	pool := open()
	defer pool.Close()
	for turn := 0; turn < 3; turn++ {
		limited, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		_, err := pool.ExecContext(limited, "select pg_sleep($1)", 600)
		cancel()
		fails("57014", err)
		equal(value[int](pool, "select $1::int", turn), turn)
	}
}

func settingsStayWithTheirClient() {
	pool := open()
	defer pool.Close()
	fresh := must(pool.Conn(ctx))
	defer fresh.Close()
	standard := value[string](fresh, "show work_mem")
	var connections []*sql.Conn
	for number := 0; number < 6; number++ {
		connection := must(pool.Conn(ctx))
		defer connection.Close()
		must(connection.ExecContext(ctx, fmt.Sprintf("set work_mem = '%dMB'", number+5)))
		connections = append(connections, connection)
	}
	for turn := 0; turn < rounds; turn++ {
		for number, connection := range connections {
			equal(value[string](connection, "select current_setting($1)", "work_mem"), fmt.Sprintf("%dMB", number+5))
		}
		equal(value[string](fresh, "show work_mem"), standard)
	}
}

func main() {
	run(
		aMegabyteGoesBothWays,
		preparedStatementsOfConnectionsInterleave,
		aCrowdSharesTheBackends,
		anErrorInATransactionUndoesIt,
		rowsAreCopiedIn,
		aCancelledQueryLeavesTheConnectionUsable,
		settingsStayWithTheirClient,
	)
}
