/* libpq in pipeline mode: many statements on their way before the first answer is read.
 *
 * It finds its server in the environment by itself. The table `items (id int primary key, owner text, note text)` is there
 * and empty when it starts. */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLIENTS 24
#define ROUNDS 8
#define MEGABYTE (1024 * 1024)

#define require(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static PGconn *connect_to_server(void) {
    PGconn *connection = PQconnectdb("");
    if (PQstatus(connection) != CONNECTION_OK) {
        fprintf(stderr, "%s", PQerrorMessage(connection));
        exit(1);
    }
    return connection;
}

static PGconn *in_pipeline_mode(void) {
    PGconn *connection = connect_to_server();
    require(PQenterPipelineMode(connection) == 1);
    return connection;
}

/* The next result must have this status; answers it. */
static PGresult *expect(PGconn *connection, ExecStatusType status) {
    PGresult *result = PQgetResult(connection);
    if (PQresultStatus(result) != status) {
        fprintf(stderr, "expected %s, got %s: %s", PQresStatus(status), PQresStatus(PQresultStatus(result)),
                PQerrorMessage(connection));
        exit(1);
    }
    return result;
}

/* The next result has this status, and nothing follows in the answer of its statement. */
static void expect_alone(PGconn *connection, ExecStatusType status) {
    PQclear(expect(connection, status));
    require(PQgetResult(connection) == NULL);
}

static void expect_value(PGconn *connection, const char *value) {
    PGresult *result = expect(connection, PGRES_TUPLES_OK);
    require(strcmp(PQgetvalue(result, 0, 0), value) == 0);
    PQclear(result);
    require(PQgetResult(connection) == NULL);
}

/* Nothing follows a sync's own result but the next statement's. */
static void expect_sync(PGconn *connection) { PQclear(expect(connection, PGRES_PIPELINE_SYNC)); }

static void expect_error(PGconn *connection, const char *code) {
    PGresult *result = expect(connection, PGRES_FATAL_ERROR);
    require(strcmp(PQresultErrorField(result, PG_DIAG_SQLSTATE), code) == 0);
    PQclear(result);
    require(PQgetResult(connection) == NULL);
}

static void send_query(PGconn *connection, const char *text, const char *value) {
    require(PQsendQueryParams(connection, text, value != NULL, NULL, &value, NULL, NULL, 0) == 1);
}

static void send_prepared(PGconn *connection, const char *name, const char *value) {
    require(PQsendQueryPrepared(connection, name, 1, &value, NULL, NULL, 0) == 1);
}

static void run_now(PGconn *connection, const char *text) {
    PGresult *result = PQexec(connection, text);
    require(PQresultStatus(result) == PGRES_COMMAND_OK || PQresultStatus(result) == PGRES_TUPLES_OK);
    PQclear(result);
}

static void answers_come_in_order(void) {
    PGconn *connection = in_pipeline_mode();
    char text[32];
    for (int number = 0; number < 500; number++) {
        snprintf(text, sizeof text, "%d", number);
        send_query(connection, "select $1::int", text);
        if (number % 50 == 49)
            require(PQpipelineSync(connection) == 1);
    }
    for (int number = 0; number < 500; number++) {
        snprintf(text, sizeof text, "%d", number);
        expect_value(connection, text);
        if (number % 50 == 49)
            expect_sync(connection);
    }
    require(PQexitPipelineMode(connection) == 1);
    run_now(connection, "select 1");
    PQfinish(connection);
}

static void a_flush_brings_answers_before_the_sync(void) {
    PGconn *connection = in_pipeline_mode();
    for (int round = 0; round < ROUNDS; round++) {
        send_query(connection, "select $1::text", "flushed");
        require(PQsendFlushRequest(connection) == 1);
        require(PQflush(connection) == 0);
        expect_value(connection, "flushed");
        require(PQpipelineSync(connection) == 1);
        expect_sync(connection);
    }
    PQfinish(connection);
}

static void a_megabyte_goes_both_ways(void) {
    PGconn *connection = in_pipeline_mode();
    char *text = malloc(MEGABYTE + 1);
    memset(text, 'm', MEGABYTE);
    text[MEGABYTE] = 0;
    for (int count = 0; count < 4; count++)
        send_query(connection, "select $1::text", text);
    require(PQpipelineSync(connection) == 1);
    for (int count = 0; count < 4; count++)
        expect_value(connection, text);
    expect_sync(connection);
    free(text);
    PQfinish(connection);
}

static void prepared_statements_of_connections_interleave(void) {
    PGconn *connections[CLIENTS];
    char text[64];
    for (int client = 0; client < CLIENTS; client++) {
        connections[client] = in_pipeline_mode();
        /* One name, another text on each connection. */
        snprintf(text, sizeof text, "select $1::int + %d", client);
        require(PQsendPrepare(connections[client], "sum", text, 0, NULL) == 1);
        require(PQpipelineSync(connections[client]) == 1);
    }
    for (int client = 0; client < CLIENTS; client++) {
        expect_alone(connections[client], PGRES_COMMAND_OK);
        expect_sync(connections[client]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int client = 0; client < CLIENTS; client++) {
            snprintf(text, sizeof text, "%d", round);
            send_prepared(connections[client], "sum", text);
            require(PQsendDescribePrepared(connections[client], "sum") == 1);
            require(PQpipelineSync(connections[client]) == 1);
        }
        for (int client = 0; client < CLIENTS; client++) {
            snprintf(text, sizeof text, "%d", round + client);
            expect_value(connections[client], text);
            PGresult *described = expect(connections[client], PGRES_COMMAND_OK);
            require(PQnparams(described) == 1 && PQnfields(described) == 1);
            PQclear(described);
            require(PQgetResult(connections[client]) == NULL);
            expect_sync(connections[client]);
        }
    }
    for (int client = 0; client < CLIENTS; client++)
        PQfinish(connections[client]);
}

static void names_are_those_of_the_connection(void) {
    PGconn *connection = in_pipeline_mode();
    send_prepared(connection, "unknown", "1");
    require(PQpipelineSync(connection) == 1);
    require(PQsendPrepare(connection, "twice", "select 1", 0, NULL) == 1);
    require(PQsendPrepare(connection, "twice", "select 2", 0, NULL) == 1);
    require(PQpipelineSync(connection) == 1);
    expect_error(connection, "26000");
    expect_sync(connection);
    expect_alone(connection, PGRES_COMMAND_OK);
    expect_error(connection, "42P05");
    expect_sync(connection);
    PQfinish(connection);
}

static void a_crowd_shares_the_backends(void) {
    PGconn *connections[CLIENTS];
    char key[32], owner[32];
    for (int client = 0; client < CLIENTS; client++)
        connections[client] = in_pipeline_mode();
    for (int round = 0; round < ROUNDS; round++) {
        /* Whole transactions: whoever waits for a backend has no open one of its own. */
        for (int client = 0; client < CLIENTS; client++) {
            const char *values[2] = {key, owner};
            snprintf(key, sizeof key, "%d", client * ROUNDS + round);
            snprintf(owner, sizeof owner, "%d", client);
            send_query(connections[client], "begin", NULL);
            require(PQsendQueryParams(connections[client], "insert into items values ($1::int, $2, 'crowd')", 2, NULL,
                                      values, NULL, NULL, 0) == 1);
            send_query(connections[client], "select count(*) from items where owner = $1", owner);
            send_query(connections[client], "commit", NULL);
            require(PQpipelineSync(connections[client]) == 1);
        }
        for (int client = 0; client < CLIENTS; client++) {
            expect_alone(connections[client], PGRES_COMMAND_OK);
            expect_alone(connections[client], PGRES_COMMAND_OK);
            snprintf(key, sizeof key, "%d", round + 1);
            expect_value(connections[client], key);
            expect_alone(connections[client], PGRES_COMMAND_OK);
            expect_sync(connections[client]);
        }
    }
    for (int client = 0; client < CLIENTS; client++)
        PQfinish(connections[client]);
}

static void an_error_skips_to_the_sync_and_no_further(void) {
    PGconn *connection = in_pipeline_mode();
    for (int round = 0; round < ROUNDS; round++) {
        char name[32];
        snprintf(name, sizeof name, "skipped%d", round);
        send_query(connection, "insert into items values (90000, 'undone', '')", NULL);
        send_query(connection, "select 1 / $1::int", "0");
        require(PQsendPrepare(connection, name, "select $1::int", 0, NULL) == 1);
        send_query(connection, "select 3", NULL);
        require(PQpipelineSync(connection) == 1);
        /* The server has never seen the Parse of this name, so it is free. */
        require(PQsendPrepare(connection, name, "select $1::int + 1", 0, NULL) == 1);
        send_prepared(connection, name, "1");
        send_query(connection, "select count(*) from items where owner = 'undone'", NULL);
        require(PQpipelineSync(connection) == 1);
        expect_alone(connection, PGRES_COMMAND_OK);
        expect_error(connection, "22012");
        expect_alone(connection, PGRES_PIPELINE_ABORTED);
        expect_alone(connection, PGRES_PIPELINE_ABORTED);
        expect_sync(connection);
        expect_alone(connection, PGRES_COMMAND_OK);
        expect_value(connection, "2");
        expect_value(connection, "0");
        expect_sync(connection);
    }
    PQfinish(connection);
}

static void a_savepoint_outlives_an_error(void) {
    PGconn *connection = in_pipeline_mode();
    send_query(connection, "begin", NULL);
    send_query(connection, "savepoint here", NULL);
    require(PQpipelineSync(connection) == 1);
    send_query(connection, "select 1 / $1::int", "0");
    require(PQpipelineSync(connection) == 1);
    send_query(connection, "rollback to here", NULL);
    send_query(connection, "select $1::text", "kept");
    send_query(connection, "commit", NULL);
    require(PQpipelineSync(connection) == 1);
    expect_alone(connection, PGRES_COMMAND_OK);
    expect_alone(connection, PGRES_COMMAND_OK);
    expect_sync(connection);
    expect_error(connection, "22012");
    expect_sync(connection);
    expect_alone(connection, PGRES_COMMAND_OK);
    expect_value(connection, "kept");
    expect_alone(connection, PGRES_COMMAND_OK);
    expect_sync(connection);
    PQfinish(connection);
}

static void rows_are_copied_in_and_out(void) {
    /* libpq allows no COPY in pipeline mode. */
    PGconn *connection = connect_to_server();
    char line[64], *out;
    run_now(connection, "delete from items");
    PQclear(PQexec(connection, "copy items from stdin"));
    for (int number = 0; number < 5000; number++) {
        int length = snprintf(line, sizeof line, "%d\tcopy\tnote\n", number);
        require(PQputCopyData(connection, line, length) == 1);
    }
    require(PQputCopyEnd(connection, NULL) == 1);
    PGresult *result = expect(connection, PGRES_COMMAND_OK);
    require(strcmp(PQcmdTuples(result), "5000") == 0);
    PQclear(result);
    require(PQgetResult(connection) == NULL);
    PQclear(PQexec(connection, "copy (select * from items order by id) to stdout"));
    for (int number = 0; number < 5000; number++) {
        snprintf(line, sizeof line, "%d\tcopy\tnote\n", number);
        require(PQgetCopyData(connection, &out, 0) == (int)strlen(line) && strcmp(out, line) == 0);
        PQfreemem(out);
    }
    require(PQgetCopyData(connection, &out, 0) == -1);
    expect_alone(connection, PGRES_COMMAND_OK);
    PQclear(PQexec(connection, "copy items from stdin"));
    require(PQputCopyData(connection, "1\t", 2) == 1 && PQputCopyEnd(connection, "changed my mind") == 1);
    expect_error(connection, "57014");
    run_now(connection, "select 1");
    PQfinish(connection);
}

static void a_cancelled_query_leaves_the_connection_usable(void) {
    PGconn *connection = in_pipeline_mode(), *other = connect_to_server();
    char reason[256];
    for (int count = 0; count < 3; count++) {
        send_query(connection, "select pg_sleep(600)", NULL);
        require(PQpipelineSync(connection) == 1);
        require(PQflush(connection) == 0);
        PGcancel *cancel = PQgetCancel(connection);
        /* It may come before the query does: again, then, until the query has ended. */
        while (PQconsumeInput(connection) && PQisBusy(connection)) {
            require(PQcancel(cancel, reason, sizeof reason) == 1);
            run_now(other, "select pg_sleep(0.05)");
        }
        PQfreeCancel(cancel);
        expect_error(connection, "57014");
        expect_sync(connection);
        /* A late cancel may meet one more statement of the same connection, as it may on PostgreSQL. */
        send_query(connection, "select $1::int", "1");
        require(PQpipelineSync(connection) == 1);
        expect_value(connection, "1");
        expect_sync(connection);
    }
    PQfinish(connection);
    PQfinish(other);
}

static void settings_stay_with_their_client(void) {
    PGconn *connections[CLIENTS];
    char text[64];
    for (int client = 0; client < CLIENTS; client++) {
        connections[client] = in_pipeline_mode();
        snprintf(text, sizeof text, "set work_mem = '%dMB'", client + 5);
        send_query(connections[client], text, NULL);
        snprintf(text, sizeof text, "set application_name = 'app%d'", client);
        send_query(connections[client], text, NULL);
        require(PQpipelineSync(connections[client]) == 1);
        expect_alone(connections[client], PGRES_COMMAND_OK);
        expect_alone(connections[client], PGRES_COMMAND_OK);
        expect_sync(connections[client]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int client = 0; client < CLIENTS; client++) {
            send_query(connections[client], "show work_mem", NULL);
            require(PQpipelineSync(connections[client]) == 1);
        }
        for (int client = 0; client < CLIENTS; client++) {
            snprintf(text, sizeof text, "%dMB", client + 5);
            expect_value(connections[client], text);
            expect_sync(connections[client]);
            snprintf(text, sizeof text, "app%d", client);
            require(strstr(PQparameterStatus(connections[client], "application_name"), text) != NULL);
        }
    }
    for (int client = 0; client < CLIENTS; client++)
        PQfinish(connections[client]);
}

#define run(named)                                                                                                     \
    do {                                                                                                               \
        puts(#named);                                                                                                  \
        named();                                                                                                       \
    } while (0)

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    run(answers_come_in_order);
    run(a_flush_brings_answers_before_the_sync);
    run(a_megabyte_goes_both_ways);
    run(prepared_statements_of_connections_interleave);
    run(names_are_those_of_the_connection);
    run(a_crowd_shares_the_backends);
    run(an_error_skips_to_the_sync_and_no_further);
    run(a_savepoint_outlives_an_error);
    run(rows_are_copied_in_and_out);
    run(a_cancelled_query_leaves_the_connection_usable);
    run(settings_stay_with_their_client);
    return 0;
}
