package tests

// Goal: behind a transaction pooler, where sessions are not one's own, everything is as it is with
// PostgreSQL itself; also when a commit's answer is lost on either side of the pooler, and when the
// pooler dies.
// Method: a real pgbouncer, with a proxy before it and one behind it.

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"drover/tests/harness"
)

// pooled is a cluster whose way to the database is: before, pooler, behind.
type pooled struct {
	proxied
	pooler         *harness.Pooler
	before, behind *harness.Proxy
}

func startPooled(t *testing.T, replicas int, extra ...string) *pooled {
	t.Helper()
	needDrover(t)
	pg, database := sharedDatabase(t)
	p := &pooled{}
	var err error
	p.behind, err = pg.StartProxy()
	check(t, err == nil, "%v", err)
	p.pooler, err = harness.StartPooler(p.behind.Port)
	check(t, err == nil, "%v", err)
	p.before, err = harness.StartProxyTo(p.pooler.Port)
	check(t, err == nil, "%v", err)
	p.proxies = []*harness.Proxy{p.before, p.behind}
	p.Cluster = &harness.Cluster{Setup: harness.Setup{Engine: "postgres", Replicas: replicas},
		Postgres: pg, Database: database}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgbouncer:\n%s", p.pooler.LogTail(12))
			for _, r := range p.Replicas {
				t.Logf("%s:\n%s", r.Name, r.LogTail(12))
			}
		}
		p.Kill()
		p.pooler.Kill()
		p.before.Close()
		p.behind.Close()
	})
	for i := range replicas {
		r, err := harness.LaunchDrover(harness.DroverOptions{Name: fmt.Sprintf("n%d", i+1),
			Datastore: p.before.URL(database), Extra: append([]string{"--datastore-pooler"}, extra...)})
		check(t, err == nil, "%v", err)
		p.Replicas = append(p.Replicas, r)
	}
	for _, r := range p.Replicas {
		err := r.WaitReady(harness.Patience)
		check(t, err == nil, "%v", err)
	}
	return p
}

// TestBehindAPooler: two replicas; what one writes the other reads and tells its watchers; a lease
// is kept alive through either and ends for both; no session was asked for what it cannot keep.
func TestBehindAPooler(t *testing.T) {
	p := startPooled(t, 2)
	ctx := testContext(t)
	var clients []*clientv3.Client
	var watches []clientv3.WatchChan
	for _, endpoint := range p.Endpoints() {
		c := client(t, endpoint)
		clients = append(clients, c)
		watches = append(watches, c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify()))
	}
	for i, watch := range watches {
		created := <-watch
		check(t, created.Created, "watch %d: %+v", i, created)
	}
	// next is the one event that comes next, the same on both.
	next := func() *clientv3.Event {
		t.Helper()
		var first *clientv3.Event
		for i, watch := range watches {
			select {
			case resp := <-watch:
				check(t, resp.Err() == nil && len(resp.Events) == 1, "watch %d: %+v", i, resp)
				if e := resp.Events[0]; i == 0 {
					first = e
				} else {
					check(t, e.Kv.ModRevision == first.Kv.ModRevision && string(e.Kv.Key) == string(first.Kv.Key) &&
						e.Type == first.Type, "watch %d: %v, not %v", i, e, first)
				}
			case <-time.After(harness.Patience):
				t.Fatalf("watch %d: nothing comes", i)
			}
		}
		return first
	}
	for i := range size(60, 1000) {
		key := fmt.Sprint("key", i%7)
		put := must[*clientv3.PutResponse](t)(clients[i%2].Put(ctx, key, fmt.Sprint(i)))
		got := must[*clientv3.GetResponse](t)(clients[(i+1)%2].Get(ctx, key))
		check(t, len(got.Kvs) == 1 && got.Kvs[0].ModRevision == put.Header.Revision && string(got.Kvs[0].Value) == fmt.Sprint(i),
			"put %v, got %v", put, got)
		e := next()
		check(t, e.Kv.ModRevision == put.Header.Revision && (e.PrevKv != nil) == (i >= 7), "event %v of %v", e, put)
	}
	withinTTL(t, 3, func(try int, ttl int64) (string, time.Duration) {
		return pooledLease(t, clients, next, try, ttl)
	})
	check(t, !p.before.Listens() && p.before.Count("LISTEN") == 0, "it listens through a pooler")
	p.dense(t)
}

// pooledLease is a lease that is granted by one, kept alive by the other, and left alone.
func pooledLease(t *testing.T, clients []*clientv3.Client, next func() *clientv3.Event, try int, ttl int64) (string, time.Duration) {
	ctx := testContext(t)
	last := time.Now()
	lease := must[*clientv3.LeaseGrantResponse](t)(clients[0].Grant(ctx, ttl))
	key := fmt.Sprint("leased", try)
	put, err := clients[1].Put(ctx, key, "", clientv3.WithLease(lease.ID))
	if err != nil {
		return err.Error(), time.Since(last)
	}
	e := next()
	check(t, e.Kv.ModRevision == put.Header.Revision, "event %v", e)
	for i := range 2 * ttl {
		time.Sleep(time.Second)
		sent := time.Now()
		if _, err := clients[(i+1)%2].KeepAliveOnce(ctx, lease.ID); err != nil {
			next() // The end of the key.
			return err.Error(), time.Since(last)
		}
		last = sent
	}
	e = next()
	took := time.Since(last)
	check(t, e.Type == clientv3.EventTypeDelete && string(e.Kv.Key) == key, "event %v", e)
	check(t, took >= time.Duration(ttl)*time.Second, "a lease of %d s ends after %v", ttl, took)
	return "", 0
}

// TestALostAnswerBehindAPooler: the commit is done and its answer lost, before the pooler, or behind
// it; and the commit never arrives. The client gets OK, once.
func TestALostAnswerBehindAPooler(t *testing.T) {
	for _, place := range []string{"before", "behind"} {
		t.Run(place, func(t *testing.T) {
			p := startPooled(t, 1)
			x := map[string]*harness.Proxy{"before": p.before, "behind": p.behind}[place]
			kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
			for round := range size(4, 60) {
				for _, count := range []int{1, 100} {
					var committed atomic.Int64
					x.SetRule(once(harness.Fault{Kind: harness.LoseAnswer, Settled: func(_ int, outcome string) {
						if outcome == "COMMIT" {
							committed.Add(1)
						}
					}}))
					putAll(t, kv, fmt.Sprintf("lost/%d/%d", round, count), count)
					check(t, committed.Load() == 1, "%d committed", committed.Load())
					x.SetRule(once(harness.Fault{Kind: harness.CutBefore}))
					putAll(t, kv, fmt.Sprintf("cut/%d/%d", round, count), count)
				}
			}
			p.dense(t)
		})
	}
}

// TestAPoolerMayDie: kill -9 of pgbouncer under load, again and again.
func TestAPoolerMayDie(t *testing.T) {
	p := startPooled(t, 2)
	rnd := newRand(seed(t))
	crash(t, p.Cluster, rnd, size(5, 50), func() error {
		p.pooler.Kill()
		time.Sleep(time.Duration(rnd.Intn(300)) * time.Millisecond)
		if err := p.pooler.Start(); err != nil {
			return err
		}
		return p.Replicas[rnd.Intn(2)].WaitReady(harness.Patience)
	})
	p.dense(t)
}
