package tests

// Goal: kill -9 of drover or of its database, at any moment, loses nothing that was acknowledged,
// applies nothing twice, and leaves no gap and no repeat in any watch.
// Method: writers under load, a killer, a watcher that resumes behind the last revision it saw; in
// the end the store, the writers' books and the watcher's history must agree.

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
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"drover/tests/harness"
)

const crashWriters = 8

// crashBook is what one writer knows: for each unique key the revision of its acknowledgement, 0
// where the outcome is not known.
type crashBook struct {
	acked   map[string]int64
	counter int64 // Version of the writer's counter, as last seen.
	open    bool  // A doubtful step from there was absent when read; it may still come in, once.
	unsure  int   // Requests with unknown outcome.
}

type crashRun struct {
	t       *testing.T
	cluster *harness.Cluster
	conns   []*grpc.ClientConn
	stop    atomic.Bool
	books   [crashWriters]crashBook
	events  []*mvccpb.Event
	lastRev atomic.Int64
	failure atomic.Pointer[string]
}

func (r *crashRun) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.failure.CompareAndSwap(nil, &text)
	r.stop.Store(true)
}

// write puts one unique key, once: an error leaves its outcome open for ever.
func (r *crashRun) write(kv pb.KVClient, worker, n int) bool {
	book := &r.books[worker]
	key := fmt.Sprintf("unique/%d/%06d", worker, n)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	book.acked[key] = 0
	put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)})
	if err != nil {
		book.unsure++
		return false
	}
	book.acked[key] = put.Header.Revision
	return true
}

// count adds one to the writer's counter by compare-and-swap on its version, which nobody else
// writes. After an unknown outcome the version tells whether it happened. One that did not may
// still be on its way to the database, from a process that is dead: it can come in later, but no
// step can count two.
func (r *crashRun) count(kv pb.KVClient, worker int) bool {
	book := &r.books[worker]
	key := fmt.Appendf(nil, "counter/%d", worker)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	put := &pb.PutRequest{Key: key, Value: fmt.Append(nil, book.counter+1)}
	txn, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, TargetUnion: &pb.Compare_Version{Version: book.counter}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}},
	})
	if err == nil && txn.Succeeded {
		book.counter++
		book.open = false
		return true
	}
	if err == nil && !book.open {
		r.fail("counter %d is not at %d, where its only writer left it", worker, book.counter)
		return false
	}
	if err != nil {
		book.unsure++
		book.open = true
	}
	version, ok := r.settled(key, worker)
	switch {
	case !ok:
	case version == book.counter+1:
		book.counter++
		book.open = false
	case version != book.counter || err == nil:
		r.fail("counter %d is at %d; one doubtful step from %d", worker, version, book.counter)
	}
	return false
}

// settled reads a version, wherever it can be read.
func (r *crashRun) settled(key []byte, worker int) (int64, bool) {
	deadline := time.Now().Add(harness.Patience)
	for try := 0; time.Now().Before(deadline); try++ {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		got, err := pb.NewKVClient(r.conns[(worker+try)%len(r.conns)]).Range(ctx, &pb.RangeRequest{Key: key})
		cancel()
		if err == nil {
			if len(got.Kvs) == 0 {
				return 0, true
			}
			return got.Kvs[0].Version, true
		}
		pause()
	}
	r.fail("nobody answers a read")
	return 0, false
}

func (r *crashRun) worker(worker int) {
	r.books[worker].acked = map[string]int64{}
	at := worker
	for n := 0; !r.stop.Load(); n++ {
		kv := pb.NewKVClient(r.conns[at%len(r.conns)])
		ok := false
		if n%3 == 0 {
			ok = r.count(kv, worker)
		} else {
			ok = r.write(kv, worker, n)
		}
		if !ok {
			at++
			pause()
		}
	}
}

// watch collects all events from revision 2 on, over as many streams as it takes.
func (r *crashRun) watch(until *atomic.Int64, done chan<- struct{}) {
	defer close(done)
	next := int64(2)
	silence := time.Second // So long it may last; more each time that nothing came.
	for at := 0; r.failure.Load() == nil; at++ {
		if end := until.Load(); end > 0 && next > end {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := pb.NewWatchClient(r.conns[at%len(r.conns)]).Watch(ctx)
		if err == nil {
			create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: next, PrevKv: true}
			err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		}
		timer := time.AfterFunc(time.Hour, cancel)
		for err == nil {
			var resp *pb.WatchResponse
			timer.Reset(silence) // A silent end must not stop us.
			if resp, err = stream.Recv(); err != nil {
				silence = min(2*silence, 30*time.Second)
				break
			}
			if len(resp.Events) > 0 {
				silence = time.Second
			}
			if resp.Canceled {
				r.fail("the watch from %d is cancelled: %v", next, resp)
				break
			}
			for _, e := range resp.Events {
				rev := e.Kv.ModRevision
				if rev != next && rev != next-1 || rev == next-1 && (len(r.events) == 0 || r.lastRev.Load() != rev) {
					r.fail("the watch shows revision %d where %d comes next", rev, next)
				}
				next = rev + 1
				r.lastRev.Store(rev)
				r.events = append(r.events, e)
			}
			if end := until.Load(); end > 0 && next > end {
				break
			}
		}
		timer.Stop()
		cancel()
		pause()
	}
}

// verify compares the store on every replica with the books and with the history.
func (r *crashRun) verify() {
	t := r.t
	var first []*mvccpb.KeyValue
	for i, conn := range r.conns {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		all, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		cancel()
		check(t, err == nil, "replica %d: %v", i, err)
		check(t, all.Count == int64(len(all.Kvs)), "replica %d: count %d of %d", i, all.Count, len(all.Kvs))
		if i > 0 {
			sameKeys(t, first, all.Kvs)
			continue
		}
		first = all.Kvs
	}
	state := map[string]*mvccpb.KeyValue{}
	for _, kv := range first {
		state[string(kv.Key)] = kv
	}
	acked, unsure := 0, 0
	for worker := range r.books {
		book := &r.books[worker]
		unsure += book.unsure
		for key, rev := range book.acked {
			kv := state[key]
			delete(state, key)
			if kv == nil {
				check(t, rev == 0, "%s was acknowledged at revision %d and is lost", key, rev)
				continue
			}
			check(t, kv.Version == 1 && string(kv.Value) == key, "%s was applied %d times: %v", key, kv.Version, kv)
			check(t, rev == 0 || rev == kv.ModRevision, "%s was acknowledged at %d and is at %d", key, rev, kv.ModRevision)
			acked++
		}
		key := fmt.Sprintf("counter/%d", worker)
		if kv := state[key]; kv != nil {
			if book.open && kv.Version == book.counter+1 {
				book.counter++
			}
			check(t, kv.Version == book.counter && string(kv.Value) == fmt.Sprint(book.counter),
				"%s is at version %d, value %s; its writer counts %d", key, kv.Version, kv.Value, book.counter)
			acked += int(kv.Version)
		}
		delete(state, key)
	}
	for key := range state {
		check(t, strings.HasPrefix(key, "beside/"), "nobody wrote %s", key)
	}
	r.verifyHistory(first)
	t.Logf("%d writes in the store, %d answers lost, %d events", acked, unsure, len(r.events))
}

// verifyHistory replays the events: dense revisions and versions, right prev_kv, the same end.
func (r *crashRun) verifyHistory(want []*mvccpb.KeyValue) {
	t := r.t
	state := map[string]*mvccpb.KeyValue{}
	for i, e := range r.events {
		check(t, e.Kv.ModRevision == int64(i)+2, "event %d is at revision %d", i, e.Kv.ModRevision)
		before := state[string(e.Kv.Key)]
		check(t, (before == nil) == (e.PrevKv == nil), "event %d: prev_kv %v, before it %v", i, e.PrevKv, before)
		version := int64(1)
		if before != nil {
			version = before.Version + 1
			check(t, e.PrevKv.ModRevision == before.ModRevision, "event %d: prev_kv %v, before it %v", i, e.PrevKv, before)
		}
		check(t, e.Kv.Version == version, "event %d: version %d of %s, not %d", i, e.Kv.Version, e.Kv.Key, version)
		state[string(e.Kv.Key)] = e.Kv
	}
	check(t, len(state) == len(want), "the history holds %d keys, the store %d", len(state), len(want))
	for _, kv := range want {
		seen := state[string(kv.Key)]
		check(t, seen != nil && seen.ModRevision == kv.ModRevision, "history %v, store %v", seen, kv)
	}
}

// crash runs load on |cluster| while |kill| kills and revives, |kills| times.
func crash(t *testing.T, cluster *harness.Cluster, rnd *rand.Rand, kills int, kill func() error) {
	r := &crashRun{t: t, cluster: cluster}
	for _, endpoint := range cluster.Endpoints() {
		r.conns = append(r.conns, dialStrict(t, endpoint))
	}
	var until atomic.Int64
	watched := make(chan struct{})
	go r.watch(&until, watched)
	var wg sync.WaitGroup
	for worker := range crashWriters {
		wg.Add(1)
		go func() { defer wg.Done(); r.worker(worker) }()
	}
	for i := 0; i < kills && r.failure.Load() == nil; i++ {
		time.Sleep(time.Duration(50+rnd.Intn(500)) * time.Millisecond)
		if err := kill(); err != nil {
			r.fail("kill %d: %v", i, err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	r.stop.Store(true)
	wg.Wait()
	if rev, ok := r.finalRevision(); ok {
		until.Store(rev)
	}
	r.await(watched, &until)
	if text := r.failure.Load(); text != nil {
		report(t.Name() + ": " + *text)
		t.Fatal(*text)
	}
	r.verify()
}

// await waits for the watch as long as it gets on.
func (r *crashRun) await(watched <-chan struct{}, until *atomic.Int64) {
	for last := int64(-1); last < r.lastRev.Load(); {
		last = r.lastRev.Load()
		select {
		case <-watched:
			return
		case <-time.After(harness.Patience):
		}
	}
	r.fail("the watch stays at %d of %d", r.lastRev.Load(), until.Load())
}

func (r *crashRun) finalRevision() (rev int64, ok bool) {
	ok = harness.Eventually(func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience/4)
		defer cancel()
		got, err := pb.NewKVClient(r.conns[0]).Range(ctx, &pb.RangeRequest{Key: []byte("x")})
		rev = got.GetHeader().GetRevision()
		return err == nil
	})
	if !ok {
		r.fail("no read is answered after the last kill")
	}
	return rev, ok
}

// killDrover kills one replica, waits a moment and starts it again.
func killDrover(cluster *harness.Cluster, rnd *rand.Rand) func() error {
	return func() error {
		victim := cluster.Replicas[rnd.Intn(len(cluster.Replicas))]
		victim.Kill()
		time.Sleep(time.Duration(rnd.Intn(200)) * time.Millisecond)
		return victim.Restart()
	}
}

func TestCrashOfDrover(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		if harness.SelfTest() && setup.Replicas > 1 {
			t.Skip("embedded members can't be killed")
		}
		rnd := newRand(seed(t))
		cluster := start(t, setup)
		crash(t, cluster, rnd, size(6, 50), killDrover(cluster, rnd))
	})
}

func TestCrashOfPostgres(t *testing.T) {
	if !slices.Contains(harness.Engines(), "postgres") || harness.SelfTest() {
		t.Skip("no PostgreSQL below the test")
	}
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("x%d", replicas), func(t *testing.T) {
			rnd := newRand(seed(t))
			pg, err := harness.StartPostgres()
			if err != nil {
				t.Fatal(err)
			}
			defer pg.KillAll()
			cluster, err := harness.StartClusterOn(pg, replicas)
			if err != nil {
				t.Fatal(err)
			}
			defer cluster.Kill()
			crash(t, cluster, rnd, size(6, 50), func() error {
				if rnd.Intn(3) == 0 { // Both at once.
					victim := cluster.Replicas[rnd.Intn(replicas)]
					pg.KillAll()
					victim.Kill()
					if err := pg.Start(); err != nil {
						return err
					}
					return victim.Restart()
				}
				pg.KillAll()
				time.Sleep(time.Duration(rnd.Intn(1500)) * time.Millisecond)
				if err := pg.Start(); err != nil {
					return err
				}
				return cluster.Replicas[0].WaitReady(harness.Patience)
			})
		})
	}
}
