package storage

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/proxyplane/proxyplane/transport"
)

// Python's table, by the statement that SQLiteStorage.db runs, and ours. They must be readable for any SQLite that has WAL, so no STRICT and no
// RETURNING inside. A trigger takes the conflict clause of the statement that fires it, so that Python's INSERT OR REPLACE replaces in both tables;
// REPLACE fires no delete trigger.
const (
	createBlobs   = `CREATE TABLE IF NOT EXISTS blobs(key TEXT PRIMARY KEY, value BLOB NOT NULL)`
	createObjects = `CREATE TABLE IF NOT EXISTS proxyplane_objects(key TEXT PRIMARY KEY NOT NULL, size INTEGER NOT NULL, mod INTEGER NOT NULL, ` +
		`row INTEGER, file INTEGER) WITHOUT ROWID`
	createState = `CREATE TABLE IF NOT EXISTS proxyplane_state(id INTEGER PRIMARY KEY CHECK(id = 1), last INTEGER NOT NULL)`

	// typeof and length of a column read no more of a value than its head; a value that is text (not Python's) is measured in bytes.
	lengthOf = `CASE typeof(%[1]s.value) WHEN 'blob' THEN length(%[1]s.value) ELSE length(CAST(%[1]s.value AS BLOB)) END`

	onInsert = `UPDATE proxyplane_state SET last = max(last + 1, new.rowid); ` +
		`INSERT OR REPLACE INTO proxyplane_objects(key, size, mod, row, file) SELECT new.key, %s, last, new.rowid, NULL FROM proxyplane_state; END`
	onDelete = `DELETE FROM proxyplane_objects WHERE key = old.key AND file IS NULL; `
)

// triggers by name. Whether they are in the database, letter by letter, is how Open knows that nothing was written behind our tables' back.
func triggers() map[string]string {
	insert := fmt.Sprintf(onInsert, fmt.Sprintf(lengthOf, "new"))
	return map[string]string{
		"proxyplane_insert": `CREATE TRIGGER proxyplane_insert AFTER INSERT ON blobs WHEN typeof(new.key) = 'text' BEGIN ` + insert,
		"proxyplane_delete": `CREATE TRIGGER proxyplane_delete AFTER DELETE ON blobs BEGIN ` + onDelete + `END`,
		"proxyplane_update": `CREATE TRIGGER proxyplane_update AFTER UPDATE ON blobs WHEN typeof(new.key) = 'text' BEGIN ` + onDelete + insert,
	}
}

// maxVersion is far beyond any clock. A database with such numbers was made by somebody who wants them to overflow.
const maxVersion = math.MaxInt64 / 2

// errGone says that an object is not where the index said; it may have been replaced meanwhile.
var errGone = errors.New("the object is not there any more")

// database is the SQLite file. The connection w belongs to Open and then to the writer's goroutine; all others may use value.
type database struct {
	path    string
	busy    time.Duration
	noSync  bool
	w       *conn
	readers chan *conn // nil for one that is not open yet
}

func openDatabase(ctx context.Context, o Options) (*database, error) {
	d := &database{path: o.Path, busy: o.BusyTimeout, noSync: o.NoSync, readers: make(chan *conn, max(2, min(runtime.GOMAXPROCS(0), 8)))}
	for range cap(d.readers) {
		d.readers <- nil
	}
	if err := d.prepare(ctx, o); err != nil {
		_ = d.close()
		return nil, d.explain(err)
	}
	return d, nil
}

func (d *database) prepare(ctx context.Context, o Options) error {
	var err error
	if d.w, err = d.connect(); err != nil {
		return err
	}
	mode, err := d.useLog(ctx)
	if err != nil {
		return err
	}
	sync := "FULL"
	if mode != "wal" { // a file system without shared memory; then the journal's deletion must be durable too
		o.Logger.Warn("the file system takes no write-ahead log, so that the database is slower", "path", d.path, "journal_mode", mode)
		sync = "EXTRA"
	}
	if d.noSync {
		sync = "OFF"
	}
	for _, q := range []string{
		`PRAGMA synchronous = ` + sync,
		`PRAGMA wal_autocheckpoint = 4096`, // pages: less would write objects of nearly FileAbove twice within a few puts
		`PRAGMA journal_size_limit = 67108864`,
		`PRAGMA cell_size_check = ON`,
		`PRAGMA cache_size = -16384`, // KiB: keys come in any order, so that every put touches other pages of the index
		`BEGIN IMMEDIATE`,
	} {
		if _, err := d.w.exec(ctx, q); err != nil {
			return err
		}
	}
	if err := d.schema(ctx, o); err != nil {
		_, _ = d.w.exec(context.Background(), `ROLLBACK`) // the connection is closed next, which does the same
		return err
	}
	_, err = d.w.exec(ctx, `COMMIT`)
	return err
}

// useLog puts the database into WAL mode and returns the mode that it is in. SQLite does not wait for others here by itself.
func (d *database) useLog(ctx context.Context) (mode string, err error) {
	for until := time.Now().Add(d.busy); ; {
		err = d.w.query(ctx, `PRAGMA journal_mode = WAL`, func(row []driver.Value) error {
			mode, _ = row[0].(string)
			return nil
		})
		if e, ok := errors.AsType[*sqlite.Error](err); !ok || e.Code()&0xff != lib.SQLITE_BUSY || time.Now().After(until) {
			return mode, err
		}
		if _, err := d.w.exec(ctx, `BEGIN IMMEDIATE`); err != nil { // this waits
			return mode, err
		}
		if _, err := d.w.exec(ctx, `ROLLBACK`); err != nil {
			return mode, err
		}
		t := time.NewTimer(5 * time.Millisecond) // who only reads does not make it wait
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return mode, ctx.Err()
		}
	}
}

// schema makes the tables, and brings ours up to date if somebody wrote without the triggers. It runs in a transaction.
func (d *database) schema(ctx context.Context, o Options) error {
	for _, q := range []string{createBlobs, createObjects, createState} {
		if _, err := d.w.exec(ctx, q); err != nil {
			return err
		}
	}
	for _, q := range []string{`SELECT rowid, key, value FROM blobs LIMIT 0`, `SELECT key, size, mod, row, file FROM proxyplane_objects LIMIT 0`,
		`SELECT id, last FROM proxyplane_state LIMIT 0`} {
		if err := d.w.query(ctx, q, func([]driver.Value) error { return nil }); err != nil {
			return d.foreign(err)
		}
	}
	current := true
	have := map[string]string{}
	if err := d.w.query(ctx, `SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'proxyplane_%'`, func(row []driver.Value) error {
		name, _ := row[0].(string)
		have[name], _ = row[1].(string)
		return nil
	}); err != nil {
		return err
	}
	for name, sql := range triggers() {
		if have[name] == sql {
			continue
		}
		current = false
		if _, err := d.w.exec(ctx, `DROP TRIGGER IF EXISTS `+name); err != nil {
			return err
		}
		if _, err := d.w.exec(ctx, sql); err != nil {
			return d.foreign(err)
		}
	}
	last, state, err := d.w.integer(ctx, `SELECT last FROM proxyplane_state WHERE id = 1`)
	if err != nil {
		return err
	}
	if !state {
		current = false
		if _, err := d.w.exec(ctx, `INSERT INTO proxyplane_state(id, last) VALUES (1, 0)`); err != nil {
			return err
		}
	}
	largest, _, err := d.w.integer(ctx, `SELECT max(rowid) FROM blobs`)
	if err != nil {
		return err
	}
	if largest > maxVersion || last > maxVersion {
		return d.foreign(fmt.Errorf("rowid %d, version %d", largest, last))
	}
	if current {
		return nil
	}
	now := time.Now().UnixNano()
	for _, q := range []struct {
		sql  string
		args []driver.Value
	}{
		{`UPDATE proxyplane_state SET last = max(last, ?1, ?2, ifnull((SELECT max(mod) FROM proxyplane_objects), 0))`, []driver.Value{now, largest}},
		{`DELETE FROM proxyplane_objects WHERE file IS NULL AND NOT EXISTS (SELECT 1 FROM blobs AS b WHERE b.key = proxyplane_objects.key AND ` +
			`b.rowid = proxyplane_objects.row AND ` + fmt.Sprintf(lengthOf, "b") + ` = proxyplane_objects.size)`, nil},
		{`INSERT OR REPLACE INTO proxyplane_objects(key, size, mod, row, file) SELECT b.key, ` + fmt.Sprintf(lengthOf, "b") +
			`, (SELECT last FROM proxyplane_state) + row_number() OVER (ORDER BY b.rowid), b.rowid, NULL FROM blobs AS b ` +
			`WHERE typeof(b.key) = 'text' AND NOT EXISTS (SELECT 1 FROM proxyplane_objects AS o WHERE o.key = b.key AND o.file IS NULL) ORDER BY b.key`, nil},
		{`UPDATE proxyplane_state SET last = max(last, ifnull((SELECT max(mod) FROM proxyplane_objects), 0))`, nil},
	} {
		if _, err := d.w.exec(ctx, q.sql, q.args...); err != nil {
			return err
		}
	}
	if largest > 0 {
		o.Logger.Info("the database was written without our index, which was made now", "path", d.path)
	}
	return nil
}

// objects reads our index.
func (d *database) objects() (map[string]entry, error) {
	index := map[string]entry{}
	err := d.w.query(context.Background(), `SELECT key, size, mod, ifnull(row, 0), ifnull(file, 0) FROM proxyplane_objects`, func(row []driver.Value) error {
		key, ok0 := row[0].(string)
		size, ok1 := row[1].(int64)
		mod, ok2 := row[2].(int64)
		at, ok3 := row[3].(int64)
		file, ok4 := row[4].(int64)
		if !ok0 || !ok1 || !ok2 || !ok3 || !ok4 || size < 0 || (at == 0) == (file == 0) {
			return d.foreign(fmt.Errorf("row %v of proxyplane_objects is none of ours", row))
		}
		index[key] = entry{size: size, mod: mod, row: at, file: uint64(file)}
		return nil
	})
	if err != nil {
		return nil, d.explain(err)
	}
	return index, nil
}

// forget deletes objects from our index.
func (d *database) forget(keys []string) error {
	ctx := context.Background()
	_, err := d.w.exec(ctx, `BEGIN IMMEDIATE`)
	for _, key := range keys {
		if err == nil {
			_, err = d.w.exec(ctx, deleteObject, key)
		}
	}
	if err == nil {
		_, err = d.w.exec(ctx, `COMMIT`)
	}
	if err != nil {
		_, _ = d.w.exec(ctx, `ROLLBACK`) // fails if SQLite has done it already
		return d.explain(err)
	}
	return nil
}

// value reads an object's bytes into memory of the garbage collector. errGone if the row is another one's.
func (d *database) value(key string, e entry) ([]byte, error) {
	c := <-d.readers
	defer func() { d.readers <- c }()
	if c == nil {
		var err error
		if c, err = d.connect(); err != nil {
			return nil, d.explain(err)
		}
	}
	var value []byte
	found := false
	// The key too: VACUUM by another program renumbers the rows.
	err := c.query(context.Background(), `SELECT value FROM blobs WHERE rowid = ?1 AND key = ?2`, func(row []driver.Value) error {
		found = true
		switch v := row[0].(type) { // the driver has copied it out of SQLite, for nobody else
		case []byte:
			value = v
		case string:
			value = []byte(v)
		default:
			found = false
		}
		return nil
	}, e.row, key)
	if err != nil {
		return nil, d.explain(err)
	}
	if !found || int64(len(value)) != e.size {
		return nil, errGone
	}
	return value, nil
}

// checkpoint moves the log into the database and empties it, as far as readers allow.
func (d *database) checkpoint() error {
	return d.explain(d.w.query(context.Background(), `PRAGMA wal_checkpoint(TRUNCATE)`, func([]driver.Value) error { return nil }))
}

// close ends all connections; the last one deletes the log. Nobody reads any more.
func (d *database) close() error {
	var err error
	for range cap(d.readers) {
		if c := <-d.readers; c != nil {
			err = errors.Join(err, c.close())
		}
	}
	if d.w != nil {
		err = errors.Join(err, d.w.close())
	}
	return err
}

// foreign says that this is not, or no more, a database of ours.
func (d *database) foreign(err error) error {
	return &failure{transport.ErrCorrupt, err, fmt.Sprintf("corrupt: %s is damaged, or not the database of an endpoint: move it away, or save what can be "+
		"read with: sqlite3 %s .recover | sqlite3 NEW", d.path, d.path)}
}

// explain gives an error of SQLite its class and says what to do.
func (d *database) explain(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if _, done := errors.AsType[*failure](err); !ok || done {
		return err
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		return noSpace(d.path, err)
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_PROTOCOL:
		return &failure{transport.ErrUnavailable, err, fmt.Sprintf("unavailable: another program has been writing to %s for %s: stop it (a ProxyStore endpoint of "+
			"the same directory?), or try again", d.path, d.busy)}
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB, lib.SQLITE_FORMAT:
		return d.foreign(err)
	case lib.SQLITE_ERROR: // only a schema that is not ours makes our statements wrong
		return d.foreign(err)
	case lib.SQLITE_TOOBIG:
		return &failure{transport.ErrTooLarge, err, fmt.Sprintf("too large for the database, which takes objects up to %d bytes: keep it as a file (a lower "+
			"file threshold)", FoldLimit)}
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM, lib.SQLITE_AUTH:
		return &failure{transport.ErrUnavailable, err, fmt.Sprintf("unavailable: %s cannot be opened for writing: check that the directory exists, and the "+
			"permissions of both", d.path)}
	}
	return &failure{transport.ErrUnavailable, err, fmt.Sprintf("unavailable: %s: try again; if it stays so, check the disk", d.path)}
}

// noSpace is ErrFull with a text about the disk: that of the sentinel speaks of memory.
func noSpace(path string, err error) error {
	return &failure{transport.ErrFull, err, fmt.Sprintf("the disk of %s is full, or its quota is reached: evict objects, or make room there", path)}
}

// failure is an error of a class with a text of its own. cause may be nil.
type failure struct {
	class, cause error
	text         string
}

func (f *failure) Error() string {
	if f.cause == nil {
		return f.text
	}
	return f.text + " (" + f.cause.Error() + ")"
}

func (f *failure) Unwrap() []error { return []error{f.class, f.cause} }

// conn is one connection with its prepared statements. It belongs to one goroutine at a time.
type conn struct {
	c     driver.Conn
	stmts map[string]statement
	args  []driver.NamedValue
	row   []driver.Value
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// connect opens a connection of a driver of our own, to which nobody in the process has added functions or hooks.
func (d *database) connect() (*conn, error) {
	path := filepath.ToSlash(d.path)
	if !strings.HasPrefix(path, "/") { // a drive letter
		path = "/" + path
	}
	// As a URI, so that any character may be in the name.
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: "_error_rc=1"}).String()
	dc, err := new(sqlite.Driver).Open(dsn)
	if err != nil {
		return nil, err
	}
	c := &conn{c: dc, stmts: map[string]statement{}}
	for _, q := range []string{fmt.Sprintf(`PRAGMA busy_timeout = %d`, max(d.busy.Milliseconds(), 1)), `PRAGMA trusted_schema = OFF`} {
		if _, err := c.exec(context.Background(), q); err != nil {
			_ = c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *conn) close() error {
	var err error
	for _, s := range c.stmts {
		err = errors.Join(err, s.Close())
	}
	return errors.Join(err, c.c.Close())
}

func (c *conn) prepare(q string, args []driver.Value) (statement, error) {
	s := c.stmts[q]
	if s == nil {
		p, err := c.c.Prepare(q)
		if err != nil {
			return nil, err
		}
		var ok bool
		if s, ok = p.(statement); !ok {
			return nil, fmt.Errorf("the SQLite driver's statement is a %T", p)
		}
		c.stmts[q] = s
	}
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return s, nil
}

// exec runs a statement and returns how many rows it changed.
func (c *conn) exec(ctx context.Context, q string, args ...driver.Value) (int64, error) {
	s, err := c.prepare(q, args)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(ctx, c.args)
	clear(c.args) // else a large value would live until the next call
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// query calls each with every row, which it lends.
func (c *conn) query(ctx context.Context, q string, each func([]driver.Value) error, args ...driver.Value) error {
	s, err := c.prepare(q, args)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(ctx, c.args)
	if err != nil {
		return err
	}
	if n := len(rows.Columns()); cap(c.row) < n {
		c.row = make([]driver.Value, n)
	} else {
		c.row = c.row[:n]
	}
	for {
		if err = rows.Next(c.row); err == nil {
			err = each(c.row)
		}
		if err != nil {
			clear(c.row)
			cerr := rows.Close()
			if errors.Is(err, io.EOF) {
				return cerr
			}
			return err
		}
	}
}

// integer returns the first column of the first row, and whether there is one that is an integer.
func (c *conn) integer(ctx context.Context, q string, args ...driver.Value) (n int64, ok bool, err error) {
	err = c.query(ctx, q, func(row []driver.Value) error {
		if !ok {
			n, ok = row[0].(int64)
		}
		return nil
	}, args...)
	return n, ok, err
}
