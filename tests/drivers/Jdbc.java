// PostgreSQL's JDBC driver: extended protocol always, named statements from the fifth execution on.
//
// It finds its server where libpq looks for it: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGOPTIONS, PGSSLMODE and
// PGSSLROOTCERT. The table `items (id int primary key, owner text, note text)` is there and empty when it starts.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;

public class Jdbc {
    static final int CROWD = 24;
    // More than the five executions after which the driver names its statements.
    static final int ROUNDS = 8;
    static final int MEGABYTE = 1024 * 1024;

    interface Case {
        void run() throws Exception;
    }

    static Connection open(String... properties) throws SQLException {
        var environment = System.getenv();
        var all = new Properties();
        all.setProperty("user", environment.get("PGUSER"));
        all.setProperty("password", environment.get("PGPASSWORD"));
        if (environment.containsKey("PGOPTIONS")) all.setProperty("options", environment.get("PGOPTIONS"));
        if (environment.containsKey("PGSSLMODE")) {
            all.setProperty("sslmode", environment.get("PGSSLMODE"));
            all.setProperty("sslrootcert", environment.get("PGSSLROOTCERT"));
        }
        for (int index = 0; index < properties.length; index += 2) {
            all.setProperty(properties[index], properties[index + 1]);
        }
        var place = environment.get("PGHOST") + ":" + environment.get("PGPORT") + "/" + environment.get("PGDATABASE");
        return DriverManager.getConnection("jdbc:postgresql://" + place, all);
    }

    static String value(Connection connection, String query, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            return value(statement, parameters);
        }
    }

    static String value(PreparedStatement statement, Object... parameters) throws SQLException {
        for (int index = 0; index < parameters.length; index++) statement.setObject(index + 1, parameters[index]);
        try (ResultSet rows = statement.executeQuery()) {
            require(rows.next());
            return rows.getString(1);
        }
    }

    static void execute(Connection connection, String query) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(query);
        }
    }

    static void add(Connection connection, int key, String owner, String note) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("insert into items values (?, ?, ?)")) {
            statement.setInt(1, key);
            statement.setString(2, owner);
            statement.setString(3, note);
            require(statement.executeUpdate() == 1);
        }
    }

    static void require(boolean condition) {
        if (!condition) throw new AssertionError("does not hold");
    }

    static void equal(Object found, Object expected) {
        if (!expected.equals(found)) throw new AssertionError(found + " is not " + expected);
    }

    static void fails(String code, Case action) throws Exception {
        try {
            action.run();
        } catch (SQLException error) {
            equal(error.getSQLState(), code);
            return;
        }
        throw new AssertionError("no error " + code);
    }

    static void a_megabyte_goes_both_ways() throws Exception {
        try (Connection connection = open()) {
            String text = "m".repeat(MEGABYTE);
            equal(value(connection, "select ?::text", text), text);
            byte[] bytes = new byte[MEGABYTE];
            for (int index = 0; index < MEGABYTE; index++) bytes[index] = (byte) index;
            try (PreparedStatement statement = connection.prepareStatement("select ?::bytea")) {
                statement.setBytes(1, bytes);
                ResultSet rows = statement.executeQuery();
                require(rows.next() && Arrays.equals(rows.getBytes(1), bytes));
            }
        }
    }

    static void prepared_statements_of_connections_interleave() throws Exception {
        // The driver names them S_1, S_2, … on each connection.
        var connections = new ArrayList<Connection>();
        var statements = new ArrayList<PreparedStatement>();
        for (int number = 0; number < 6; number++) {
            connections.add(open("prepareThreshold", String.valueOf(1 + number % 3)));
            statements.add(connections.get(number).prepareStatement("select ?::int + " + number));
        }
        for (int turn = 0; turn < ROUNDS; turn++) {
            for (int number = 0; number < 6; number++) {
                equal(value(statements.get(number), turn), String.valueOf(turn + number));
                equal(value(connections.get(number), "select ?::text", "shared"), "shared");
                equal(value(connections.get(number), "select " + number + ", ?::int", turn), String.valueOf(number));
            }
        }
        for (Connection connection : connections) connection.close();
    }

    static void a_crowd_shares_the_backends() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(CROWD);
        var everybody = new CyclicBarrier(CROWD);
        List<Future<?>> clients = new ArrayList<>();
        for (int index = 0; index < CROWD; index++) {
            int number = index;
            clients.add(threads.submit(() -> {
                try (Connection connection = open()) {
                    everybody.await();
                    connection.setAutoCommit(false);
                    for (int turn = 0; turn < ROUNDS; turn++) {
                        add(connection, number * ROUNDS + turn, "crowd" + number, "crowd");
                        String count = "select count(*) from items where owner = ?";
                        equal(value(connection, count, "crowd" + number), String.valueOf(turn + 1));
                        connection.commit();
                    }
                }
                return null;
            }));
        }
        for (Future<?> client : clients) client.get();
        threads.shutdown();
        try (Connection connection = open()) {
            equal(value(connection, "select count(*) from items"), String.valueOf(CROWD * ROUNDS));
        }
    }

    static void a_batch_is_one_pipeline() throws Exception {
        for (String rewrite : new String[] {"false", "true"}) {
            try (Connection connection = open("reWriteBatchedInserts", rewrite)) {
                execute(connection, "delete from items");
                connection.setAutoCommit(false);
                try (PreparedStatement statement = connection.prepareStatement("insert into items values (?, 'b', '')")) {
                    for (int key = 0; key < 1000; key++) {
                        statement.setInt(1, key);
                        statement.addBatch();
                    }
                    equal(statement.executeBatch().length, 1000);
                }
                connection.commit();
                equal(value(connection, "select count(*) from items"), "1000");
                connection.commit();
            }
        }
    }

    static void an_error_in_a_transaction_undoes_it() throws Exception {
        try (Connection connection = open(); Connection other = open()) {
            connection.setAutoCommit(false);
            for (int turn = 0; turn < ROUNDS; turn++) {
                add(connection, 20_000, "undone", "");
                fails("22012", () -> value(connection, "select 1 / ?::int", 0));
                fails("25P02", () -> value(connection, "select 1"));
                equal(value(other, "select count(*) from items where owner = 'undone'"), "0");
                connection.rollback();
                equal(value(connection, "select ?::int", 5), "5");
                connection.commit();
            }
        }
    }

    static void a_savepoint_outlives_an_error() throws Exception {
        try (Connection connection = open(); Connection other = open()) {
            connection.setAutoCommit(false);
            add(connection, 30_000, "kept", "");
            for (int turn = 0; turn < ROUNDS; turn++) {
                Savepoint here = connection.setSavepoint("here");
                fails("23505", () -> add(connection, 30_000, "kept", ""));
                connection.rollback(here);
                equal(value(other, "select 1"), "1");
            }
            connection.commit();
            equal(value(other, "select count(*) from items where owner = 'kept'"), "1");
        }
        // The driver's own savepoints, around every statement.
        try (Connection connection = open("autosave", "always")) {
            connection.setAutoCommit(false);
            for (int turn = 0; turn < ROUNDS; turn++) {
                fails("22012", () -> value(connection, "select 1 / ?::int", 0));
                equal(value(connection, "select ?::int", 5), "5");
            }
            connection.commit();
        }
    }

    static void a_plan_that_no_longer_fits_is_an_error_once() throws Exception {
        try (Connection connection = open("prepareThreshold", "1"); Connection other = open()) {
            execute(other, "create table changing as select 1 as a");
            for (int turn = 0; turn < ROUNDS; turn++) equal(value(connection, "select * from changing"), "1");
            execute(other, "alter table changing add b int");
            // The driver prepares again by itself outside transactions.
            for (int turn = 0; turn < ROUNDS; turn++) equal(value(connection, "select * from changing"), "1");
            execute(other, "drop table changing");
        }
    }

    static void rows_are_copied_in_and_out() throws Exception {
        try (Connection connection = open()) {
            execute(connection, "delete from items");
            var lines = new StringBuilder();
            for (int key = 0; key < 5000; key++) lines.append(key).append("\tcopy\tnote\n");
            var copy = connection.unwrap(PGConnection.class).getCopyAPI();
            equal(copy.copyIn("copy items from stdin", new StringReader(lines.toString())), 5000L);
            var out = new StringWriter();
            copy.copyOut("copy (select * from items order by id) to stdout", out);
            equal(out.toString(), lines.toString());
            fails("23505", () -> copy.copyIn("copy items from stdin", new StringReader(lines.toString())));
            equal(value(connection, "select count(*) from items"), "5000");
        }
    }

    static void a_cancelled_query_leaves_the_connection_usable() throws Exception {
        var timer = new Timer(true);
        try (Connection connection = open(); Connection other = open()) {
            for (int turn = 0; turn < 3; turn++) {
                try (Statement statement = connection.createStatement()) {
                    var cancel = new TimerTask() {
                        public void run() {
                            try {
                                statement.cancel();
                            } catch (SQLException error) {
                                throw new IllegalStateException(error);
                            }
                        }
                    };
                    // Now and then: a cancel may come before what it is to cancel.
                    timer.schedule(cancel, 200, 200);
                    fails("57014", () -> statement.execute("select pg_sleep(600)"));
                    cancel.cancel();
                }
                equal(value(connection, "select 1"), "1");
                equal(value(other, "select 2"), "2");
            }
        }
    }

    static void settings_stay_with_their_client() throws Exception {
        var connections = new ArrayList<Connection>();
        for (int number = 0; number < 6; number++) {
            Connection connection = open("ApplicationName", "app" + number);
            connection.setSchema("s" + number);
            connection.setReadOnly(number == 0);
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connections.add(connection);
        }
        try (Connection fresh = open()) {
            String standard = value(fresh, "show search_path");
            for (int turn = 0; turn < ROUNDS; turn++) {
                for (int number = 0; number < 6; number++) {
                    Connection connection = connections.get(number);
                    equal(value(connection, "show search_path"), "s" + number);
                    require(value(connection, "show application_name").endsWith("app" + number));
                    equal(value(connection, "show transaction_isolation"), "serializable");
                }
                equal(value(fresh, "show search_path"), standard);
                equal(value(fresh, "show transaction_isolation"), "read committed");
            }
        }
        for (Connection connection : connections) connection.close();
    }

    static void a_cursor_of_the_server_reads_in_parts() throws Exception {
        try (Connection connection = open(); Connection other = open()) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                // With a fetch size the driver executes a named portal again and again, a Sync after each part.
                statement.setFetchSize(100);
                long total = 0;
                ResultSet rows = statement.executeQuery("select generate_series(1, 1000)");
                while (rows.next()) {
                    total += rows.getInt(1);
                    if (rows.getInt(1) % 100 == 0) equal(value(other, "select 1"), "1");
                }
                equal(total, 500_500L);
            }
            connection.commit();
        }
    }

    static void run(String name, Case named) throws Exception {
        System.out.println(name);
        named.run();
    }

    public static void main(String[] arguments) throws Exception {
        run("a_crowd_shares_the_backends", Jdbc::a_crowd_shares_the_backends);
        run("a_megabyte_goes_both_ways", Jdbc::a_megabyte_goes_both_ways);
        run("prepared_statements_of_connections_interleave", Jdbc::prepared_statements_of_connections_interleave);
        run("a_batch_is_one_pipeline", Jdbc::a_batch_is_one_pipeline);
        run("an_error_in_a_transaction_undoes_it", Jdbc::an_error_in_a_transaction_undoes_it);
        run("a_savepoint_outlives_an_error", Jdbc::a_savepoint_outlives_an_error);
        run("a_plan_that_no_longer_fits_is_an_error_once", Jdbc::a_plan_that_no_longer_fits_is_an_error_once);
        run("rows_are_copied_in_and_out", Jdbc::rows_are_copied_in_and_out);
        run("a_cancelled_query_leaves_the_connection_usable", Jdbc::a_cancelled_query_leaves_the_connection_usable);
        run("settings_stay_with_their_client", Jdbc::settings_stay_with_their_client);
        run("a_cursor_of_the_server_reads_in_parts", Jdbc::a_cursor_of_the_server_reads_in_parts);
    }
}
