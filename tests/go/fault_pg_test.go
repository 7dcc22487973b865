package tests

// Goal: whatever happens between drover and PostgreSQL, and when, an acknowledged write is in the
// log exactly once, a write that is not acknowledged at most once, and revisions stay dense.
// Method: a proxy that knows which statement commits, and loses, delays or delivers late exactly
// that one.

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"drover/tests/harness"
)

// proxied is a cluster in which each replica has its own proxy to the database.
type proxied struct {
	*harness.Cluster
	proxies []*harness.Proxy
}

func startProxied(t *testing.T, replicas int, extra ...string) *proxied {
	t.Helper()
	needDrover(t)
	pg, database := sharedDatabase(t)
	p := &proxied{Cluster: &harness.Cluster{Setup: harness.Setup{Engine: "postgres", Replicas: replicas},
		Postgres: pg, Database: database}}
	t.Cleanup(func() {
		if t.Failed() {
			for _, r := range p.Replicas {
				t.Logf("%s:\n%s", r.Name, r.LogTail(12))
			}
		}
		p.Kill()
		for _, x := range p.proxies {
			x.Close()
		}
	})
	for i := range replicas {
		x, err := pg.StartProxy()
		check(t, err == nil, "%v", err)
		p.proxies = append(p.proxies, x)
		r, err := harness.LaunchDrover(harness.DroverOptions{Name: fmt.Sprintf("n%d", i+1),
			Datastore: x.URL(database), Extra: extra})
		check(t, err == nil, "%v", err)
		p.Replicas = append(p.Replicas, r)
	}
	for _, r := range p.Replicas {
		err := r.WaitReady(harness.Patience)
		check(t, err == nil, "%v", err)
	}
	return p
}

// table is the name of one of drover's tables in the database.
func (p *proxied) table(t *testing.T, name string) string {
	t.Helper()
	full, err := p.Postgres.SQL(p.Database, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '(^|_)"+name+"$'")
	check(t, err == nil && full != "" && !strings.Contains(full, "\n"), "table %s: %q %v", name, full, err)
	return full
}

// dense checks in SQL that entries, revisions and versions have no gap and no repeat.
func (p *proxied) dense(t *testing.T) {
	t.Helper()
	entry, kv := p.table(t, "entry"), p.table(t, "kv")
	for _, c := range []struct{ what, query string }{
		{"entries", "SELECT count(*) FROM (SELECT seq, last_rev, first_rev, row_number() OVER (ORDER BY seq) AS n," +
			" lag(last_rev, 1, 1::bigint) OVER (ORDER BY seq) AS before FROM " + entry + ") e WHERE seq <> n" +
			" OR (first_rev > 0 AND last_rev >= first_rev AND first_rev <> before + 1)"},
		{"revisions", "SELECT count(*) FROM (SELECT revision, lag(revision, 1, 1::bigint) OVER (ORDER BY revision) AS before" +
			" FROM (SELECT DISTINCT revision FROM " + kv + ") d) r WHERE revision <> before + 1"},
		{"versions", "SELECT count(*) FROM (SELECT key, version, is_delete, row_number() OVER (PARTITION BY key ORDER BY revision, sub) AS n" +
			" FROM " + kv + ") v WHERE NOT is_delete AND version <> n"},
		{"writers", "SELECT count(*) FROM (SELECT writer, writer_counter FROM " + entry + " GROUP BY 1, 2 HAVING count(*) > 1) w"},
	} {
		out, err := p.Postgres.SQL(p.Database, c.query)
		check(t, err == nil && out == "0", "%s are not dense: %s %v", c.what, out, err)
	}
}

// once gives |fault| to the first statement that may commit an entry, and nothing to the others.
func once(fault harness.Fault) func(*harness.Statement) harness.Fault {
	var used atomic.Bool
	return func(s *harness.Statement) harness.Fault {
		if s.Appends() && used.CompareAndSwap(false, true) {
			return fault
		}
		return harness.Fault{}
	}
}

// putAll puts |count| fresh keys at once, wants OK for each, and checks revisions and versions.
func putAll(t *testing.T, kv pb.KVClient, name string, count int) {
	t.Helper()
	ctx := testContext(t)
	before, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("x")})
	check(t, err == nil, "range: %v", err)
	revisions := make([]int64, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Add(1)
		go func() {
			defer wg.Done()
			put, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s/%03d", name, i), Value: []byte(name)})
			if err != nil {
				t.Errorf("%s/%03d: %v", name, i, err)
				return
			}
			revisions[i] = put.Header.Revision
		}()
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	all, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(name + "/"), RangeEnd: []byte(name + "0")})
	check(t, err == nil && len(all.Kvs) == count, "%d keys of %d: %v", len(all.GetKvs()), count, err)
	for i, got := range all.Kvs {
		check(t, got.Version == 1 && got.ModRevision == revisions[i], "acknowledged at %d, is %v", revisions[i], got)
	}
	slices.Sort(revisions)
	for i, rev := range revisions {
		check(t, rev == before.Header.Revision+int64(i)+1, "revision %d of %s is %d after %d", i, name, rev, before.Header.Revision)
	}
	check(t, all.Header.Revision == before.Header.Revision+int64(count), "revision %d", all.Header.Revision)
}

var transactionModes = []string{"optimistic", "locking"}

// TestALostAnswerIsStillAnAnswer: the connection dies after the commit; the client gets OK, once.
func TestALostAnswerIsStillAnAnswer(t *testing.T) {
	for _, mode := range transactionModes {
		t.Run(mode, func(t *testing.T) {
			p := startProxied(t, 1, "--transaction-mode", mode)
			kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
			slowest := time.Duration(0)
			for round := range size(4, 100) {
				for _, count := range []int{1, 100} {
					var rows, settled atomic.Int64
					p.proxies[0].SetRule(once(harness.Fault{Kind: harness.LoseAnswer, Settled: func(n int, outcome string) {
						rows.Store(int64(n))
						settled.Add(1)
						if outcome == "COMMIT" {
							rows.Store(1)
						}
					}}))
					began := time.Now()
					putAll(t, kv, fmt.Sprintf("lost/%d/%d", round, count), count)
					took := time.Since(began)
					check(t, settled.Load() == 1 && rows.Load() == 1, "%d statements, %d committed", settled.Load(), rows.Load())
					slowest = max(slowest, took)
				}
			}
			p.dense(t)
			t.Logf("the slowest took %v", slowest.Round(time.Millisecond))
		})
	}
}

// TestALateFirstCopyDoesNothing: the first copy of a batch arrives when the second is under way, or
// much later, when others have written. Also: before the connection was cut nothing had arrived.
func TestALateFirstCopyDoesNothing(t *testing.T) {
	for _, mode := range transactionModes {
		t.Run(mode, func(t *testing.T) {
			rnd := newRand(seed(t))
			p := startProxied(t, 1, "--transaction-mode", mode)
			kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
			var late, first, wins atomic.Int64
			delays := []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond,
				30 * time.Millisecond, 100 * time.Millisecond, time.Second}
			for round := range size(7, 300) {
				delay := delays[round%len(delays)]
				if round >= len(delays) && delay > 0 {
					delay = time.Duration(rnd.Int63n(int64(delay)))
				}
				for _, count := range []int{1, 60} {
					p.proxies[0].SetRule(once(harness.Fault{Kind: harness.Late, Delay: delay, Settled: func(rows int, outcome string) {
						late.Add(1)
						if rows > 0 || outcome == "COMMIT" {
							wins.Add(1)
							if delay == 0 {
								first.Add(1)
							}
						}
					}}))
					putAll(t, kv, fmt.Sprintf("late/%d/%d", round, count), count)
					p.proxies[0].SetRule(once(harness.Fault{Kind: harness.CutBefore}))
					putAll(t, kv, fmt.Sprintf("cut/%d/%d", round, count), count)
				}
			}
			time.Sleep(1200 * time.Millisecond) // The last late ones.
			putAll(t, kv, "end", 1)
			p.dense(t)
			t.Logf("%d late copies, %d of them were the ones that counted", late.Load(), wins.Load())
		})
	}
}

// chaos gives each statement its fault by lot.
type chaos struct {
	mu  sync.Mutex
	rnd *rand.Rand
	off atomic.Bool
}

func (c *chaos) rule(s *harness.Statement) harness.Fault {
	if c.off.Load() || s.Prepare {
		return harness.Fault{}
	}
	c.mu.Lock()
	n, ms := c.rnd.Intn(1000), time.Duration(c.rnd.Intn(200))*time.Millisecond
	c.mu.Unlock()
	if !s.Appends() {
		switch {
		case n < 4:
			return harness.Fault{Kind: harness.CutBefore}
		case n < 8:
			return harness.Fault{Kind: harness.LoseAnswer}
		case n < 10:
			return harness.Fault{Kind: harness.Late, Delay: ms}
		case n < 14:
			return harness.Fault{Kind: harness.Delay, Delay: ms}
		}
		return harness.Fault{}
	}
	switch {
	case n < 15:
		return harness.Fault{Kind: harness.CutBefore}
	case n < 45:
		return harness.Fault{Kind: harness.LoseAnswer}
	case n < 75:
		return harness.Fault{Kind: harness.Late, Delay: ms}
	case n < 100:
		return harness.Fault{Kind: harness.Delay, Delay: ms}
	}
	return harness.Fault{}
}

// TestChaosOnTheWayToTheDatabase: load, counters and a watcher as in the crash tests, with faults by lot.
func TestChaosOnTheWayToTheDatabase(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("x%d", replicas), func(t *testing.T) {
			n := seed(t)
			p := startProxied(t, replicas)
			var lots []*chaos
			for i, x := range p.proxies {
				c := &chaos{rnd: newRand(n + int64(i)*1000)}
				lots = append(lots, c)
				x.SetRule(c.rule)
			}
			faults := func() (n int) {
				for _, x := range p.proxies {
					n += x.Count("faults")
				}
				return n
			}
			rounds, round := size(12, 400), 0
			rnd := newRand(n)
			crash(t, p.Cluster, rnd, rounds, func() error {
				round++
				if !harness.Eventually(func() bool { return faults() > 2*round }) {
					return fmt.Errorf("only %d faults", faults())
				}
				if rnd.Intn(4) == 0 {
					p.proxies[rnd.Intn(replicas)].Cut(nil)
				}
				if round == rounds {
					for _, c := range lots {
						c.off.Store(true)
					}
				}
				return nil
			})
			p.dense(t)
			t.Logf("%d faults", faults())
		})
	}
}

// TestEverySessionIsTerminatedAgainAndAgain under load, by pg_terminate_backend.
func TestEverySessionIsTerminatedAgainAndAgain(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("x%d", replicas), func(t *testing.T) {
			rnd := newRand(seed(t))
			p := startProxied(t, replicas)
			killed := 0
			crash(t, p.Cluster, rnd, size(8, 300), func() error {
				out, err := p.Postgres.SQL(p.Database, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"+
					" WHERE datname = current_database() AND pid <> pg_backend_pid()")
				var n int
				fmt.Sscan(out, &n)
				killed += n
				return err
			})
			p.dense(t)
			t.Logf("%d sessions terminated", killed)
		})
	}
}

// gaps tells what putUntil met: how many answers with OK, and the longest time between two.
type gaps struct {
	longest time.Duration
	acked   atomic.Int64
	errs    map[string]int
}

// putUntil puts, one by one, until |stop|.
func (g *gaps) putUntil(kv pb.KVClient, name string, stop *atomic.Bool) {
	g.errs = map[string]int{}
	last := time.Now()
	for n := 0; !stop.Load(); n++ {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s/%d", name, n)})
		cancel()
		if err != nil {
			g.errs[err.Error()]++
			time.Sleep(20 * time.Millisecond)
			continue
		}
		g.acked.Add(1)
		g.longest = max(g.longest, time.Since(last))
		last = time.Now()
	}
	g.longest = max(g.longest, time.Since(last))
}

// goesOn waits for two more answers with OK: the second one was asked for after the call.
func (g *gaps) goesOn() bool {
	from := g.acked.Load()
	return harness.Eventually(func() bool { return g.acked.Load() >= from+2 })
}

// othersGoOn runs load on three replicas, |harm|s the first one for |while| and until the others have
// been seen to write in this state, twice: when it began, and at its end.
func othersGoOn(t *testing.T, p *proxied, rounds int, while time.Duration, harm, heal func()) {
	t.Helper()
	for round := range rounds {
		var stop atomic.Bool
		results := make([]gaps, 3)
		var wg sync.WaitGroup
		for i, endpoint := range p.Endpoints() {
			kv := pb.NewKVClient(dialStrict(t, endpoint))
			wg.Add(1)
			go func() { defer wg.Done(); results[i].putUntil(kv, fmt.Sprintf("r%d/n%d", round, i), &stop) }()
		}
		time.Sleep(300*time.Millisecond + time.Duration(round)*7*time.Millisecond)
		harm()
		began := time.Now()
		on := results[1].goesOn() && results[2].goesOn()
		time.Sleep(time.Until(began.Add(while)))
		on = on && results[1].goesOn() && results[2].goesOn()
		stop.Store(true)
		heal()
		wg.Wait()
		for i := 1; i < 3; i++ {
			t.Logf("round %d: replica %d: %d writes, longest gap %v, %v", round, i, results[i].acked.Load(),
				results[i].longest.Round(time.Millisecond), results[i].errs)
		}
		check(t, on, "round %d: the others write nothing", round)
		for i, r := range p.Replicas {
			err := r.WaitReady(harness.Patience)
			check(t, err == nil, "replica %d: %v", i, err)
			kv := pb.NewKVClient(dial(t, r.Endpoint()))
			writes := harness.Eventually(func() bool {
				_, err = kv.Put(testContext(t), &pb.PutRequest{Key: []byte("after")})
				return err == nil
			})
			check(t, writes, "replica %d afterwards: %v", i, err)
		}
	}
	p.dense(t)
}

func TestAStoppedReplicaDoesNotStopTheOthers(t *testing.T) {
	for _, mode := range []string{"auto", "locking"} {
		t.Run(mode, func(t *testing.T) {
			p := startProxied(t, 3, "--transaction-mode", mode)
			victim := p.Replicas[0].Process()
			othersGoOn(t, p, size(1, 20), 3*time.Second,
				func() { victim.Signal(syscallStop) }, func() { victim.Signal(syscallCont) })
		})
	}
}

// TestADeadLinkDoesNotStopTheOthers: the link goes silent at the worst moments: any; while the lock
// is held; while an append is executed and its end has not been sent.
func TestADeadLinkDoesNotStopTheOthers(t *testing.T) {
	silent := func(p *proxied) { p.proxies[0].Stall() }
	// The first of these statements meets |kind|, and later ones do not get through.
	at := func(kind harness.FaultKind, names ...string) func(p *proxied) {
		return func(p *proxied) {
			var used atomic.Bool
			p.proxies[0].SetRule(func(s *harness.Statement) harness.Fault {
				if !s.Is(names...) {
					return harness.Fault{}
				}
				if used.CompareAndSwap(false, true) {
					return harness.Fault{Kind: kind}
				}
				return harness.Fault{Kind: harness.Stall}
			})
		}
	}
	for _, c := range []struct {
		name, mode string
		while      time.Duration
		harm       func(p *proxied)
	}{
		{"at any moment", "auto", 3 * time.Second, silent},
		{"while it holds the lock", "locking", 3 * time.Second, at(harness.Stall, "append", "append_leases")},
		{"before the commit", "locking", 3 * time.Second, at(harness.Stall, "COMMIT")},
		// Others wait for the lock for 2 s, then look for the session that has it.
		{"before the end of a statement", "optimistic", 4500 * time.Millisecond, at(harness.HoldSync, "append", "append_leases")},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startProxied(t, 3, "--transaction-mode", c.mode)
			othersGoOn(t, p, size(1, 10), c.while, func() { c.harm(p) }, func() {
				p.proxies[0].SetRule(nil)
				p.proxies[0].Resume()
				p.proxies[0].Cut(nil)
			})
		})
	}
}

// TestWatchersLiveWithoutNotifications: no session can LISTEN; others' events arrive by polling.
func TestWatchersLiveWithoutNotifications(t *testing.T) {
	p := startProxied(t, 3)
	for _, x := range p.proxies {
		x.SetRule(func(s *harness.Statement) harness.Fault {
			if strings.Contains(s.Text, "LISTEN") {
				return harness.Fault{Kind: harness.CutBefore}
			}
			return harness.Fault{}
		})
		x.Cut(func(l *harness.Link) bool { return l.Seen["LISTEN"] })
	}
	ctx := testContext(t)
	arrived := make(chan time.Time, 64)
	watch := client(t, p.Endpoints()[2]).Watch(ctx, "key", clientv3.WithCreatedNotify())
	<-watch
	go func() {
		for resp := range watch {
			for range resp.Events {
				arrived <- time.Now()
			}
		}
	}()
	kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
	var worst time.Duration
	for i := range size(10, 100) {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("key"), Value: fmt.Append(nil, i)})
		check(t, err == nil, "put: %v", err)
		acked := time.Now()
		select {
		case at := <-arrived:
			worst = max(worst, at.Sub(acked))
		case <-time.After(harness.Patience):
			t.Fatalf("event %d does not arrive", i)
		}
	}
	for i, x := range p.proxies {
		check(t, !x.Listens(), "replica %d listens", i)
	}
	t.Logf("the slowest event took %v", worst.Round(time.Millisecond))
}
