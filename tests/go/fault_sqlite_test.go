package tests

// Goal: the embedded store keeps what it acknowledged, whenever it is killed, and compaction, large
// deletes and threads change nothing that a client can see.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

func startSQLite(t *testing.T, extra ...string) *harness.Cluster {
	t.Helper()
	needDrover(t)
	if !slices.Contains(harness.Engines(), "sqlite") {
		t.Skip("no SQLite in DROVER_ENGINES")
	}
	return start(t, harness.Setup{Engine: "sqlite", Replicas: 1}, extra...)
}

// TestKilledRightBehindACommit: 64 puts at once, kill -9 at the first acknowledgement (or a moment
// later): all that were acknowledged are there, the others at most once, and no revision is missing.
func TestKilledRightBehindACommit(t *testing.T) {
	c := startSQLite(t)
	rnd := newRand(seed(t))
	victim := c.Replicas[0]
	acked, there, sent := map[string]int64{}, 0, 0
	for round := range size(8, 100) {
		conn := dial(t, victim.Endpoint())
		kv := pb.NewKVClient(conn)
		var mu sync.Mutex
		var once sync.Once
		var wg sync.WaitGroup
		killed := make(chan struct{})
		wait := time.Duration(rnd.Intn(3000)) * time.Microsecond * time.Duration(round%2)
		kill := func() { go func() { time.Sleep(wait); victim.Kill(); close(killed) }() }
		for i := range 64 {
			wg.Add(1)
			sent++
			go func() {
				defer wg.Done()
				key := fmt.Sprintf("%03d/%02d", round, i)
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
				defer cancel()
				put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: make([]byte, 1000)})
				if err != nil {
					return
				}
				once.Do(kill)
				mu.Lock()
				acked[key] = put.Header.Revision
				mu.Unlock()
			}()
		}
		wg.Wait()
		once.Do(kill)
		<-killed
		conn.Close()
		check(t, victim.Restart() == nil, "restart:\n%s", victim.LogTail(10))
		all, err := pb.NewKVClient(dial(t, victim.Endpoint())).Range(testContext(t), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		check(t, err == nil, "range: %v", err)
		state := map[string]int64{}
		for _, got := range all.Kvs {
			check(t, got.Version == 1, "applied twice: %v", got)
			state[string(got.Key)] = got.ModRevision
		}
		for key, rev := range acked {
			check(t, state[key] == rev, "%s was acknowledged at %d, is at %d", key, rev, state[key])
		}
		check(t, all.Header.Revision == int64(len(all.Kvs))+1, "revision %d with %d keys", all.Header.Revision, len(all.Kvs))
		there = len(all.Kvs)
	}
	t.Logf("%d sent, %d in the store, %d acknowledged", sent, there, len(acked))
}

// TestCompactionAndARestart: the watch from the compact revision shows the same before compaction,
// after it, and after a restart; below it, all refuse alike.
func TestCompactionAndARestart(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		if setup.Replicas > 1 {
			t.Skip("one replica shows it")
		}
		c := start(t, setup)
		endpoint := c.Endpoints()[0]
		kv := pb.NewKVClient(dial(t, endpoint))
		ctx := testContext(t)
		rnd := newRand(seed(t))
		var last int64
		var tombstone int64
		for i := range 600 {
			key := fmt.Appendf(nil, "k%02d", rnd.Intn(40))
			if rnd.Intn(4) == 0 {
				del, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: fmt.Appendf(nil, "%sz", key)})
				check(t, err == nil, "delete: %v", err)
				last = del.Header.Revision
				if del.Deleted > 0 && i > 200 && i < 400 {
					tombstone = last
				}
				continue
			}
			put, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: fmt.Append(nil, i)})
			check(t, err == nil, "put: %v", err)
			last = put.Header.Revision
		}
		for _, compact := range []int64{tombstone, tombstone + 1, last} {
			before := collect(t, endpoint, compact, last)
			_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: compact, Physical: true})
			check(t, err == nil, "compact %d: %v", compact, err)
			same := func(when string) {
				after := collect(t, c.Endpoints()[0], compact, last)
				check(t, len(before) == len(after), "%s %d: %d events, not %d", when, compact, len(after), len(before))
				for i := range before {
					// What a compaction took may be missing as a previous value, at the compact revision only.
					want := proto.Clone(before[i]).(*mvccpb.Event)
					if after[i].PrevKv == nil && after[i].Kv.ModRevision == compact {
						want.PrevKv = nil
					}
					check(t, proto.Equal(want, after[i]), "%s %d: event %d is %v, not %v", when, compact, i, after[i], before[i])
				}
				_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Revision: compact - 1})
				check(t, err != nil && strings.Contains(err.Error(), "has been compacted"), "%s: read below %d: %v", when, compact, err)
			}
			same("after compaction at")
			check(t, c.Replicas[0].Stop() == nil, "stop")
			check(t, c.Replicas[0].Restart() == nil, "restart: %s", c.Replicas[0].LogTail(5))
			same("after a restart with")
			c.Replicas[0].Kill()
			check(t, c.Replicas[0].Restart() == nil, "restart: %s", c.Replicas[0].LogTail(5))
			same("after kill -9 with")
		}
	})
}

// timedOut tells whether a write has not been answered within drover's seven seconds: it may be done,
// or still be done. Only for what takes long on a slow machine, and may be done twice.
func timedOut(err error) bool {
	return err != nil && strings.Contains(err.Error(), "etcdserver: request timed out")
}

// fill puts |count| keys below |prefix|, in transactions of 128 on 16 workers.
func fill(t *testing.T, kv pb.KVClient, prefix string, count int) {
	t.Helper()
	ctx := testContext(t)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				from := int(next.Add(128)) - 128
				if from >= count {
					return
				}
				txn := &pb.TxnRequest{}
				for i := from; i < min(from+128, count); i++ {
					put := &pb.PutRequest{Key: fmt.Appendf(nil, "%s%07d", prefix, i), Value: []byte("value")}
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				var err error
				if !harness.Eventually(func() bool { _, err = kv.Txn(ctx, txn); return !timedOut(err) }) || err != nil {
					t.Errorf("fill: %v", err)
					return
				}
			}
		}()
	}
	wg.Wait()
	check(t, !t.Failed(), "fill failed")
}

// TestAHugeDeleteIsOneRevision: 100,000 keys by one DeleteRange, seen elsewhere as one response.
func TestAHugeDeleteIsOneRevision(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		if setup.Engine == "postgres" && setup.Replicas == 1 {
			t.Skip("three replicas show more")
		}
		const count = 100000
		c := start(t, setup, "--datastore-statement-timeout", "60s")
		kv := pb.NewKVClient(dial(t, c.Endpoints()[0]))
		began := time.Now()
		fill(t, kv, "huge/", count)
		t.Logf("filled in %v", time.Since(began).Round(time.Millisecond))
		ctx := testContext(t)
		elsewhere := dial(t, c.Endpoints()[setup.Replicas-1])
		watch, err := pb.NewWatchClient(elsewhere).Watch(ctx)
		check(t, err == nil, "watch: %v", err)
		create := &pb.WatchCreateRequest{Key: []byte("huge/"), RangeEnd: []byte("huge0")}
		err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		check(t, err == nil, "watch: %v", err)
		created, err := watch.Recv()
		check(t, err == nil && created.Created, "created: %v %v", created, err)
		_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("x")}) // The watcher's revision is the fill's last.
		check(t, err == nil, "range: %v", err)
		began = time.Now()
		var del *pb.DeleteRangeResponse
		late := false // The answer took too long; its revision is that of the next one, which deletes nothing.
		answered := harness.Eventually(func() bool {
			del, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("huge/"), RangeEnd: []byte("huge0")})
			late = late || timedOut(err)
			return !timedOut(err)
		})
		check(t, answered && err == nil && (del.Deleted == count || late && del.Deleted == 0), "deleted %d: %v", del.GetDeleted(), err)
		t.Logf("deleted in %v", time.Since(began).Round(time.Millisecond))
		responses := 0
		for {
			resp, err := watch.Recv()
			check(t, err == nil && !resp.Canceled, "watch: %v", err)
			if len(resp.Events) == 0 || resp.Events[0].Type == mvccpb.Event_PUT {
				continue
			}
			responses++
			check(t, len(resp.Events) == count, "a response of %d events", len(resp.Events))
			for i, e := range resp.Events {
				check(t, e.Kv.ModRevision == del.Header.Revision && e.Type == mvccpb.Event_DELETE &&
					string(e.Kv.Key) == fmt.Sprintf("huge/%07d", i), "event %d: %v", i, e)
			}
			break
		}
		t.Logf("seen elsewhere after %v", time.Since(began).Round(time.Millisecond))
		for i, endpoint := range c.Endpoints() {
			got, err := pb.NewKVClient(dial(t, endpoint)).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
			check(t, err == nil && got.Count == 0 && got.Header.Revision == del.Header.Revision, "replica %d: %v %v", i, got, err)
		}
	})
}

// TestEveryNumberOfIoThreadsIsRight: the load of the crash tests over many connections, with many
// watchers and readers beside it, and nothing that goes wrong.
func TestEveryNumberOfIoThreadsIsRight(t *testing.T) {
	for _, threads := range []string{"1", "2", "4"} {
		t.Run(threads, func(t *testing.T) {
			c := startSQLite(t, "--io-threads", threads)
			many := &harness.Cluster{Setup: c.Setup}
			for range 12 { // One connection each.
				many.Replicas = append(many.Replicas, c.Replicas[0])
			}
			var stop atomic.Bool
			var wg sync.WaitGroup
			var reads, events atomic.Int64
			for i := range 8 {
				conn := dial(t, c.Endpoints()[0])
				wg.Add(2)
				go func() { defer wg.Done(); readUpwards(t, conn, i%2 == 0, &reads, &stop) }()
				go func() { defer wg.Done(); watchDensely(t, conn, &events, &stop) }()
			}
			round := int64(0)
			crash(t, many, newRand(seed(t)), size(4, 60), func() error {
				round++
				if !harness.Eventually(func() bool { return reads.Load() > 50*round && events.Load() > 50*round }) {
					return fmt.Errorf("only %d reads, %d events beside", reads.Load(), events.Load())
				}
				return nil
			})
			stop.Store(true)
			wg.Wait()
			t.Logf("%d reads, %d events beside", reads.Load(), events.Load())
		})
	}
}

// readUpwards reads until |stop|: revisions never go back, and counts fit the keys.
func readUpwards(t *testing.T, conn *grpc.ClientConn, serializable bool, reads *atomic.Int64, stop *atomic.Bool) {
	kv := pb.NewKVClient(conn)
	for seen := int64(0); !stop.Load(); reads.Add(1) {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Serializable: serializable, Limit: 50})
		cancel()
		if err != nil || got.Header.Revision < seen || got.More != (got.Count > 50) {
			t.Errorf("read behind revision %d: %v, count %d, more %v, %v", seen, got.GetHeader(), got.GetCount(), got.GetMore(), err)
			return
		}
		seen = got.Header.Revision
	}
}

// watchDensely watches everything from revision 2 until |stop|: each revision once.
func watchDensely(t *testing.T, conn *grpc.ClientConn, events *atomic.Int64, stop *atomic.Bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 2}
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	}
	if err != nil {
		t.Errorf("watch: %v", err)
		return
	}
	go func() {
		for !stop.Load() {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
	}()
	next := int64(2)
	for {
		resp, err := stream.Recv()
		if err != nil {
			if !stop.Load() {
				t.Errorf("watch at %d: %v", next, err)
			}
			return
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision != next {
				t.Errorf("the watch shows %d where %d comes next", e.Kv.ModRevision, next)
				return
			}
			next++
			events.Add(1)
		}
	}
}
