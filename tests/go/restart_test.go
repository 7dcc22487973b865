package tests

// Goal: starting and stopping lose nothing, and a drover that cannot start says why.
// Method: restarts under a watcher, one changed byte, SIGTERM with requests under way, and all the
// bad starts there are, each with one clear line and a non-zero exit.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

func needDrover(t *testing.T) {
	t.Helper()
	if harness.SelfTest() {
		t.Skip("about drover itself")
	}
}

func needPostgres(t *testing.T) {
	t.Helper()
	if !slices.Contains(harness.Engines(), "postgres") {
		t.Skip("no PostgreSQL in DROVER_ENGINES")
	}
}

// sharedDatabase is a new one on the PostgreSQL that tests share.
func sharedDatabase(t *testing.T) (*harness.Postgres, string) {
	t.Helper()
	needPostgres(t)
	pg, err := harness.SharedPostgres()
	check(t, err == nil, "%v", err)
	database, err := pg.NewDatabase()
	check(t, err == nil, "%v", err)
	return pg, database
}

// sql runs a statement on the stopped cluster's database.
func sql(t *testing.T, c *harness.Cluster, statement string) string {
	t.Helper()
	if c.Postgres != nil {
		out, err := c.Postgres.SQL(c.Database, statement)
		check(t, err == nil, "%s: %v", statement, err)
		return out
	}
	path := strings.TrimPrefix(c.Replicas[0].Datastore, "sqlite://")
	cmd := exec.Command("sqlite3", path, statement)
	if _, err := exec.LookPath("sqlite3"); err != nil {
		program := "import sqlite3,sys\nd=sqlite3.connect(sys.argv[1])\n" +
			"for r in d.execute(sys.argv[2]): print('|'.join(map(str,r)))\nd.commit()"
		cmd = exec.Command("/usr/bin/python3", "-c", program, path, statement)
	}
	out, err := cmd.CombinedOutput()
	check(t, err == nil, "%s: %v\n%s", statement, err, out)
	return strings.TrimSpace(string(out))
}

// collect watches everything from |rev| until |last|.
func collect(t *testing.T, endpoint string, rev, last int64) []*mvccpb.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	stream, err := pb.NewWatchClient(dial(t, endpoint)).Watch(ctx)
	check(t, err == nil, "watch: %v", err)
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: rev, PrevKv: true}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	check(t, err == nil, "watch: %v", err)
	var events []*mvccpb.Event
	for len(events) == 0 || events[len(events)-1].Kv.ModRevision < last {
		resp, err := stream.Recv()
		check(t, err == nil && !resp.Canceled, "watch from %d: %v %v", rev, resp, err)
		events = append(events, resp.Events...)
	}
	return events
}

// TestARestartChangesNothing: history, leases and state after a restart are those of before.
func TestARestartChangesNothing(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		first := seed(t)
		p, err := newPair(setup, newHistogram())
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		for i := range int64(6) {
			p.runner.seed = first + i
			if d := p.runner.run(generate(first+i, programOps, setup.Replicas)); d != nil {
				t.Fatal(d)
			}
			victim := p.drover.Replicas[int(i)%setup.Replicas]
			stop := victim.Stop
			if i%2 == 0 {
				stop = func() error { victim.Kill(); return nil }
			}
			check(t, stop() == nil, "stop")
			check(t, victim.Restart() == nil, "restart")
			p.runner.drover.close()
			symbols, slots := p.runner.drover.symbols, p.runner.drover.slots
			p.runner.drover, err = newSide("drover", p.drover.Endpoints())
			check(t, err == nil, "%v", err)
			p.runner.drover.symbols, p.runner.drover.slots = symbols, slots
			afterRestart(t, p, victim)
		}
	})
}

func afterRestart(t *testing.T, p *pair, victim *harness.Replica) {
	t.Helper()
	r := p.runner
	from := max(r.compact, 2)
	want := collect(t, p.etcd[0].Endpoint(), from, r.current)
	got := collect(t, victim.Endpoint(), from, r.current)
	check(t, len(want) == len(got), "%d events from %d on, etcd has %d", len(got), from, len(want))
	for i := range want {
		a, b := r.etcd.normalize(want[i]), r.drover.normalize(got[i])
		check(t, proto.Equal(a, b), "event %d after the restart: %v, not %v", i, b, a)
	}
	for _, req := range []proto.Message{
		&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}},
		&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: from},
		&pb.LeaseLeasesRequest{},
	} {
		o := &op{replica: slices.Index(p.drover.Replicas, victim)}
		a, b := r.etcd.do(o, req), r.drover.do(o, req)
		check(t, r.sameAnswer(a, b), "after the restart %v: %v, not %v", req, b, a)
	}
}

func TestOneChangedByteIsRefused(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		if setup.Replicas > 1 {
			t.Skip("as with one")
		}
		for _, where := range []string{"value", "key", "version", "lease"} {
			c := start(t, setup)
			kv := pb.NewKVClient(dial(t, c.Endpoints()[0]))
			ctx := testContext(t)
			for i := range 30 {
				_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "key%02d", i), Value: []byte("value")})
				check(t, err == nil, "put: %v", err)
			}
			check(t, c.Stop() == nil, "stop")
			rev := 17
			seq := sql(t, c, fmt.Sprintf("SELECT seq FROM entry WHERE first_rev <= %d AND last_rev >= %d AND row_count > 0", rev, rev))
			change := map[string]string{
				"value":   "value = 'valuf'",
				"key":     "key = 'kez15'",
				"version": "version = 2",
				"lease":   "lease = 1",
			}[where]
			if c.Postgres == nil {
				change = strings.Replace(strings.Replace(change, "'valuf'", "X'76616c7566'", 1), "'kez15'", "X'6b657a3135'", 1)
			}
			sql(t, c, fmt.Sprintf("UPDATE kv SET %s WHERE revision = %d", change, rev))
			text, exit := refused(t, c.Replicas[0].Datastore, c.Replicas[0].DataDir)
			check(t, exit != 0, "changed %s: exit %d:\n%s", where, exit, text)
			line := verdict(text)
			check(t, strings.HasPrefix(line, "drover: "), "changed %s: no line of drover's in:\n%s", where, text)
			check(t, strings.HasSuffix(line, "does not match its checksum (seq "+seq+")"),
				"changed %s: not seq %s: %s", where, seq, line)
			t.Logf("%s: %s", where, line)
		}
	})
}

// verdict is the one line that is no log: "drover: …".
func verdict(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "drover: ") {
			return strings.TrimSpace(line)
		}
	}
	return text
}

// refused runs drover serve, which must end by itself, and returns what it said.
func refused(t *testing.T, datastore, dataDir string, extra ...string) (string, int) {
	t.Helper()
	port, err := harness.FreePort()
	check(t, err == nil, "%v", err)
	args := []string{"serve", "--data-dir", dataDir, "--listen-client-urls", fmt.Sprintf("http://127.0.0.1:%d", port)}
	if datastore != "" {
		args = append(args, "--datastore", datastore)
	}
	return tool(t, append(args, extra...)...)
}

// tool runs drover to its end.
func tool(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, harness.DroverBin(), args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("drover %v still runs:\n%s", args, out)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	check(t, err == nil, "drover %v: %v", args, err)
	return string(out), 0
}

// TestABadStartSaysWhy: a non-zero exit, and in the last line the word that helps.
func TestABadStartSaysWhy(t *testing.T) {
	needDrover(t)
	dir := func() string {
		d, err := harness.TempDir("bad")
		check(t, err == nil, "%v", err)
		return d
	}
	file := filepath.Join(dir(), "file")
	check(t, os.WriteFile(file, []byte("no database, but long enough to look like one: "+strings.Repeat("x", 8192)), 0o600) == nil, "file")
	type bad struct {
		name, datastore, dataDir string
		extra                    []string
		word                     string
	}
	cases := []bad{
		{"unsupported URL", "oracle://x/y", dir(), nil, "datastore"},
		{"nonsense URL", "not a url", dir(), nil, "datastore"},
		{"unknown flag", "", dir(), []string{"--no-such-flag"}, "no-such-flag"},
		{"bad duration", "", dir(), []string{"--watch-progress-notify-interval", "soon"}, "soon"},
		{"data dir is a file", "", file, nil, filepath.Base(file)},
		{"no SQLite file", "sqlite://" + file, dir(), nil, "not a SQLite database"},
		{"database is not reachable", "postgres://drover@127.0.0.1:1/none", dir(), nil, "127.0.0.1"},
		{"listen address is not ours", "", dir(), []string{"--listen-client-urls", "http://192.0.2.1:2379"}, "192.0.2.1"},
	}
	if os.Geteuid() != 0 {
		closed := dir()
		check(t, os.Chmod(closed, 0o500) == nil, "chmod")
		cases = append(cases, bad{"unwritable data dir", "", filepath.Join(closed, "data"), nil, "data"})
	} else {
		cases = append(cases, bad{"unwritable data dir", "", "/proc/drover", nil, "/proc/drover"})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text, exit := refused(t, c.datastore, c.dataDir, c.extra...)
			check(t, exit != 0, "exit 0:\n%s", text)
			check(t, strings.Contains(text, c.word), "no %q in:\n%s", c.word, text)
			t.Logf("exit %d: %s", exit, verdict(text))
		})
	}
	t.Run("port in use", func(t *testing.T) {
		r, err := harness.StartDrover(harness.DroverOptions{})
		check(t, err == nil, "%v", err)
		defer r.Kill()
		text, exit := refused(t, "", dir(), "--listen-client-urls", r.URL())
		check(t, exit != 0 && strings.Contains(text, fmt.Sprint(r.Port)), "exit %d:\n%s", exit, text)
		t.Logf("exit %d: %s", exit, verdict(text))
	})
	t.Run("locked file", func(t *testing.T) {
		c := start(t, harness.Setup{Engine: "sqlite", Replicas: 1})
		text, exit := refused(t, c.Replicas[0].Datastore, dir())
		check(t, exit != 0 && strings.Contains(text, "lock"), "exit %d:\n%s", exit, text)
		t.Logf("exit %d: %s", exit, verdict(text))
		_, err := pb.NewKVClient(dial(t, c.Endpoints()[0])).Put(testContext(t), &pb.PutRequest{Key: []byte("k")})
		check(t, err == nil, "the first one no longer serves: %v", err)
	})
}

func TestANewerSchemaIsRefused(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		if setup.Replicas > 1 {
			t.Skip("as with one")
		}
		c := start(t, setup)
		check(t, c.Stop() == nil, "stop")
		sql(t, c, "UPDATE cluster SET schema_version = 9999, min_reader = 9999")
		text, exit := refused(t, c.Replicas[0].Datastore, c.Replicas[0].DataDir)
		check(t, exit != 0 && strings.Contains(text, "9999"), "exit %d:\n%s", exit, text)
		t.Logf("exit %d: %s", exit, verdict(text))
	})
}

func TestTheWrongDatabaseIsRefused(t *testing.T) {
	needDrover(t)
	needPostgres(t)
	pg, err := harness.SharedPostgres()
	check(t, err == nil, "%v", err)
	dir, err := harness.TempDir("wrong")
	check(t, err == nil, "%v", err)
	text, exit := refused(t, pg.URL("nosuchdatabase"), dir)
	check(t, exit != 0 && strings.Contains(text, "nosuchdatabase"), "exit %d:\n%s", exit, text)
	t.Logf("exit %d: %s", exit, verdict(text))
	name, err := pg.NewDatabase()
	check(t, err == nil, "%v", err)
	_, err = pg.SQL(name, "CREATE TABLE kv (something text); CREATE TABLE entry (else_ int)")
	check(t, err == nil, "%v", err)
	text, exit = refused(t, pg.URL(name), dir)
	check(t, exit != 0, "a database with other tables: exit %d:\n%s", exit, text)
	t.Logf("exit %d: %s", exit, verdict(text))
}

func TestTheCommandsSayWhatTheyAre(t *testing.T) {
	needDrover(t)
	text, exit := tool(t, "version")
	check(t, exit == 0 && strings.Contains(text, "3.7.3"), "version, exit %d:\n%s", exit, text)
	text, exit = tool(t, "--help")
	check(t, exit == 0 && strings.Contains(text, "serve"), "--help, exit %d:\n%s", exit, text)
	text, exit = tool(t, "serve", "--help")
	for _, flag := range []string{"--datastore", "--data-dir", "--listen-client-urls", "--advertise-client-urls",
		"--name", "--watch-progress-notify-interval", "--transaction-mode", "--poll-interval"} {
		check(t, exit == 0 && strings.Contains(text, flag), "no %s in serve --help, exit %d:\n%s", flag, exit, text)
	}
	text, exit = tool(t, "dance")
	check(t, exit != 0 && strings.Contains(text, "dance"), "an unknown command, exit %d:\n%s", exit, text)
}

// TestAGracefulStop: SIGTERM under load exits 0, streams end with UNAVAILABLE, and every
// write that was under way has an answer: done, or UNAVAILABLE. What was acknowledged is there.
func TestAGracefulStop(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		c := start(t, setup)
		victim := c.Replicas[0]
		conn := dial(t, victim.Endpoint())
		ctx := testContext(t)
		watch, err := pb.NewWatchClient(conn).Watch(ctx)
		check(t, err == nil, "watch: %v", err)
		create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}
		err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		check(t, err == nil, "watch: %v", err)
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := watch.Recv(); err != nil {
					ended <- err
					return
				}
			}
		}()
		var acked sync.Map
		var stop atomic.Bool
		var wg sync.WaitGroup
		for worker := range 16 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := 0; !stop.Load(); n++ {
					key := fmt.Sprintf("w%d/%d", worker, n)
					_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key)})
					if err == nil {
						acked.Store(key, true)
						continue
					}
					if status.Code(err) != codes.Unavailable {
						t.Errorf("a write at the stop answers %v", err)
					}
					return
				}
			}()
		}
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		check(t, victim.Stop() == nil, "stop: %v", victim.LogTail(10))
		t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
		stop.Store(true)
		wg.Wait()
		select {
		case err := <-ended:
			check(t, status.Code(err) == codes.Unavailable, "the watch ends with %v", err)
		case <-time.After(harness.Patience):
			t.Fatal("the watch does not end")
		}
		check(t, victim.Restart() == nil, "restart")
		all, err := pb.NewKVClient(dial(t, victim.Endpoint())).Range(ctx, &pb.RangeRequest{Key: []byte("w"), RangeEnd: []byte("x")})
		check(t, err == nil, "range: %v", err)
		there := map[string]bool{}
		for _, kv := range all.Kvs {
			there[string(kv.Key)] = true
		}
		acked.Range(func(key, _ any) bool {
			check(t, there[key.(string)], "%v was acknowledged and is lost", key)
			return true
		})
	})
}

// TestAStopWhenIdle: how long it takes is told.
func TestAStopWhenIdle(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		c := start(t, setup)
		for _, r := range c.Replicas {
			began := time.Now()
			check(t, r.Stop() == nil, "stop: %s", r.LogTail(10))
			t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
		}
	})
}

// TestAHangUpStopsAsTermDoes: SIGHUP, which a terminal sends when it goes away.
func TestAHangUpStopsAsTermDoes(t *testing.T) {
	needDrover(t)
	r, err := harness.StartDrover(harness.DroverOptions{})
	check(t, err == nil, "%v", err)
	defer r.Kill()
	r.Process().Signal(syscall.SIGHUP)
	status, err := r.Process().WaitExit(harness.Patience)
	check(t, err == nil && status == 0, "status %d, %v:\n%s", status, err, r.LogTail(10))
}

// TestTheEndOfStdoutIsNoEnd: who reads what drover prints may end.
func TestTheEndOfStdoutIsNoEnd(t *testing.T) {
	needDrover(t)
	r, err := harness.StartDrover(harness.DroverOptions{})
	check(t, err == nil, "%v", err)
	defer r.Kill()
	r.Process().Signal(syscall.SIGPIPE)
	time.Sleep(200 * time.Millisecond)
	check(t, r.Process().Running(), "SIGPIPE ended it:\n%s", r.LogTail(5))
	check(t, r.WaitReady(harness.Patience) == nil, "it no longer serves")
	check(t, !bytes.Contains([]byte(r.LogTail(50)), []byte("panic")), "log:\n%s", r.LogTail(50))
}
