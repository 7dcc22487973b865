package tests

// What the generated programs do not reach: events too large for one message, slow readers, and
// the numbers of io threads.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"drover/tests/harness"
)

// TestLargeRevisionsComeInFragmentsIfAskedFor: 3 MiB of prev_kv in one revision.
func TestLargeRevisionsComeInFragmentsIfAskedFor(t *testing.T) {
	etcd, err := harness.StartEtcd(1)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd[0].Close()
	c := start(t, harness.Setup{Engine: harness.Engines()[0], Replicas: 1})
	for name, endpoint := range map[string]string{"etcd": etcd[0].Endpoint(), "drover": c.Endpoints()[0]} {
		t.Run(name, func(t *testing.T) { largeRevision(t, endpoint) })
	}
}

func largeRevision(t *testing.T, endpoint string) {
	const keys = 30
	ctx := testContext(t)
	conn := dial(t, endpoint)
	kv := pb.NewKVClient(conn)
	for i := range keys {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "large/%02d", i), Value: make([]byte, 100_000)})
		check(t, err == nil, "put: %v", err)
	}
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	check(t, err == nil, "watch: %v", err)
	for _, fragment := range []bool{false, true} {
		create := &pb.WatchCreateRequest{Key: []byte("large/"), RangeEnd: []byte("large0"), PrevKv: true, Fragment: fragment}
		err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		check(t, err == nil, "watch: %v", err)
		created, err := stream.Recv()
		check(t, err == nil && created.Created, "watch: %v %v", created, err)
	}
	gone, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")})
	check(t, err == nil && gone.Deleted == keys, "delete: %v %v", gone, err)
	seen, pieces := [2]int{}, [2]int{}
	for seen[0] < keys || seen[1] < keys {
		resp, err := stream.Recv()
		check(t, err == nil, "watch: %v", err)
		id := resp.WatchId
		for i, e := range resp.Events {
			want := fmt.Sprintf("large/%02d", seen[id]+i)
			check(t, string(e.Kv.Key) == want && e.Kv.ModRevision == gone.Header.Revision && len(e.PrevKv.GetValue()) == 100_000,
				"watcher %d: %s at %d, not %s", id, e.Kv.Key, e.Kv.ModRevision, want)
		}
		seen[id] += len(resp.Events)
		pieces[id]++
		check(t, resp.Fragment == (id == 1 && seen[1] < keys), "watcher %d: fragment=%v after %d events", id, resp.Fragment, seen[id])
	}
	check(t, pieces[0] == 1, "without fragment: %d pieces", pieces[0])
	check(t, pieces[1] > 1, "with fragment: %d pieces", pieces[1])
}

var rssLine = regexp.MustCompile(`VmRSS:\s+([0-9]+) kB`)

// residentKiB is what the kernel counts for a process.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err == nil, "%v", err)
	n, err := strconv.Atoi(rssLine.FindStringSubmatch(string(text))[1])
	check(t, err == nil, "%v", err)
	return n
}

// TestASlowStreamHoldsFewChunks: many streams that nobody reads must not copy the store.
func TestASlowStreamHoldsFewChunks(t *testing.T) {
	needDrover(t)
	const streams = 16
	c := start(t, harness.Setup{Engine: harness.Engines()[0], Replicas: 1})
	ctx := testContext(t)
	kv := pb.NewKVClient(dial(t, c.Endpoints()[0]))
	count := size(160, 1200)
	for i := range count {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "blob/%06d", i), Value: make([]byte, 500_000)})
		check(t, err == nil, "put: %v", err)
	}
	pid := c.Replicas[0].Process().Pid()
	before := residentKiB(t, pid)
	var open []pb.KV_RangeStreamClient
	for range streams {
		req := &pb.RangeRequest{Key: []byte("blob/"), RangeEnd: []byte("blob0")}
		stream, err := pb.NewKVClient(dial(t, c.Endpoints()[0])).RangeStream(ctx, req)
		check(t, err == nil, "stream: %v", err)
		first, err := stream.Recv()
		check(t, err == nil && len(first.RangeResponse.Kvs) > 0, "stream: %v", err)
		open = append(open, stream)
	}
	time.Sleep(500 * time.Millisecond)
	during := residentKiB(t, pid)
	t.Logf("%d MB in the store: %d MiB before, %d MiB with %d idle streams", count/2, before>>10, during>>10, streams)
	check(t, during-before < streams*16*1024, "%d KiB more for %d streams", during-before, streams)
	var wg sync.WaitGroup
	for i, stream := range open {
		wg.Add(1)
		go func() {
			defer wg.Done()
			bytes := 0
			for {
				chunk, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
					return
				}
				for _, kv := range chunk.RangeResponse.Kvs {
					bytes += len(kv.Value)
				}
			}
			if bytes < (count-64)*500_000 {
				t.Errorf("stream %d ends after %d bytes", i, bytes)
			}
		}()
	}
	wg.Wait()
	after := residentKiB(t, pid)
	check(t, after-before < streams*16*1024, "%d KiB more after %d streams", after-before, streams)
}

// TestASlowWatcherLosesNothing: nobody reads a watch while thousands of events come.
func TestASlowWatcherLosesNothing(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		c := start(t, setup)
		ctx := testContext(t)
		stream, err := pb.NewWatchClient(dial(t, c.Endpoints()[setup.Replicas-1])).Watch(ctx)
		check(t, err == nil, "watch: %v", err)
		create := &pb.WatchCreateRequest{Key: []byte("slow"), PrevKv: true}
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		check(t, err == nil, "watch: %v", err)
		created, err := stream.Recv()
		check(t, err == nil && created.Created, "watch: %v %v", created, err)
		kv := pb.NewKVClient(dial(t, c.Endpoints()[0]))
		n := size(2000, 20000)
		value := make([]byte, 10_000)
		for range n {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("slow"), Value: value})
			check(t, err == nil, "put: %v", err)
		}
		next := created.Header.Revision + 1
		for seen := 0; seen < n; {
			resp, err := stream.Recv()
			check(t, err == nil && !resp.Canceled, "after %d events: %v %v", seen, resp.GetCancelReason(), err)
			for _, e := range resp.Events {
				check(t, e.Kv.ModRevision == next, "revision %d where %d comes next", e.Kv.ModRevision, next)
				check(t, e.Kv.Version == 1 || e.PrevKv.GetModRevision() == next-1, "prev_kv of %d: %v", next, e.PrevKv.GetModRevision())
				next++
				seen++
			}
		}
	})
}

// TestAnyNumberOfIOThreads runs a few programs over 1, 2 and 4.
func TestAnyNumberOfIOThreads(t *testing.T) {
	needDrover(t)
	for _, threads := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(threads), func(t *testing.T) {
			t.Parallel()
			setup := harness.Setup{Engine: harness.Engines()[0], Replicas: 1}
			p, err := newPair(setup, newHistogram(), "--io-threads", fmt.Sprint(threads))
			check(t, err == nil, "%v", err)
			defer p.close()
			first := seed(t)
			for i := range int64(size(4, 40)) {
				p.runner.seed = first + i
				if d := p.runner.run(generate(first+i, programOps, 1)); d != nil {
					report(d.String())
					t.Fatal(d)
				}
			}
			// Thousands of calls at once, over more connections than threads.
			var wg sync.WaitGroup
			for range 12 {
				kv := pb.NewKVClient(dial(t, p.drover.Endpoints()[0]))
				for range 32 {
					wg.Add(1)
					go func() {
						defer wg.Done()
						for i := range 30 {
							ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
							_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Serializable: i%2 == 0})
							cancel()
							if err != nil {
								t.Errorf("range: %v", err)
								return
							}
						}
					}()
				}
			}
			wg.Wait()
		})
	}
}
