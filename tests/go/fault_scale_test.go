package tests

// Goal: many connections, watchers, cancelled calls and slow readers cost bounded memory and stop
// nobody else.
// Method: make them, read the process's resident memory from /proc, and let another client write and
// read beside them. How long its calls take is told.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/tests/harness"
)

const mib = 1 << 20

// resident is the process's resident memory in bytes.
func resident(t *testing.T, r *harness.Replica) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Process().Pid()))
	check(t, err == nil, "%v", err)
	for _, line := range strings.Split(string(text), "\n") {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			check(t, err == nil, "%v", err)
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// probe is another client: until stopped it puts and reads, and keeps its slowest answer.
type probe struct {
	stop  atomic.Bool
	done  chan struct{}
	calls atomic.Int64
	worst time.Duration
	err   error
}

func startProbe(t *testing.T, endpoint string) *probe {
	p := &probe{done: make(chan struct{})}
	kv := pb.NewKVClient(dial(t, endpoint))
	go func() {
		defer close(p.done)
		for ; !p.stop.Load() && p.err == nil; p.calls.Add(1) {
			ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
			began := time.Now()
			if _, p.err = kv.Put(ctx, &pb.PutRequest{Key: []byte("probe")}); p.err == nil {
				_, p.err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("probe")})
			}
			p.worst = max(p.worst, time.Since(began))
			cancel()
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return p
}

func (p *probe) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end wants the client to go on while everything that is to stop nobody is still there.
func (p *probe) end(t *testing.T) {
	t.Helper()
	from := p.calls.Load()
	on := harness.Eventually(func() bool { return p.calls.Load() >= from+10 || p.ended() })
	p.stop.Store(true)
	<-p.done
	check(t, on && p.err == nil, "another client: %v", p.err)
	t.Logf("another client: %d puts and reads, slowest pair %v", p.calls.Load(), p.worst.Round(time.Millisecond))
}

// sampled runs |work| and tells by how much resident memory rose above what it was before.
func sampled(t *testing.T, r *harness.Replica, work func()) int64 {
	t.Helper()
	before, peak := resident(t, r), int64(0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			peak = max(peak, resident(t, r))
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	work()
	close(done)
	wg.Wait()
	return peak - before
}

// bigValue is the value of key |i|: cheap to make, and different everywhere.
func bigValue(i, size int) []byte {
	value := make([]byte, size)
	rnd := rand.New(rand.NewSource(int64(i)))
	for at := 0; at+8 <= size; at += 8 {
		binary.LittleEndian.PutUint64(value[at:], rnd.Uint64())
	}
	return value
}

// readSlowly reads a whole stream, with |wait| before each chunk, and checks each byte.
func readSlowly(ctx context.Context, conn *grpc.ClientConn, count, valueSize int, wait time.Duration) error {
	stream, err := pb.NewKVClient(conn).RangeStream(ctx, &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")})
	if err != nil {
		return err
	}
	n := 0
	for {
		time.Sleep(wait)
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d keys: %w", n, err)
		}
		for _, kv := range chunk.RangeResponse.Kvs {
			if string(kv.Key) != fmt.Sprintf("big/%05d", n) || !bytes.Equal(kv.Value, bigValue(n, valueSize)) {
				return fmt.Errorf("key %d is %s with %d bytes", n, kv.Key, len(kv.Value))
			}
			n++
		}
	}
	if n != count {
		return fmt.Errorf("%d keys of %d", n, count)
	}
	return nil
}

// TestALargeStreamTakesLittleMemory. Bound: of each reader at most LIMIT_STREAM_OUT_HIGH (1 MiB) and
// the chunk that went over it (twice the request limit of 1.5 MiB) wait, and what the kernel holds
// is not ours; 24 MiB on top for the allocator and for the other client's writes.
func TestALargeStreamTakesLittleMemory(t *testing.T) {
	c := startSQLite(t)
	r := c.Replicas[0]
	const valueSize = 100 << 10
	count, readers := size(2000, 5000), size(2, 10)
	kv := pb.NewKVClient(dial(t, r.Endpoint()))
	ctx := testContext(t)
	for i := range count {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "big/%05d", i), Value: bigValue(i, valueSize)})
		check(t, err == nil, "put: %v", err)
	}
	total := int64(count) * valueSize
	t.Logf("%d MiB in memory: resident %d MiB", total/mib, resident(t, r)/mib)
	warm := readSlowly(ctx, dial(t, r.Endpoint()), count, valueSize, 0)
	check(t, warm == nil, "the first stream: %v", warm)
	other := startProbe(t, r.Endpoint())
	began := time.Now()
	grown := sampled(t, r, func() {
		var wg sync.WaitGroup
		for range readers {
			wg.Add(1)
			conn := dial(t, r.Endpoint())
			go func() {
				defer wg.Done()
				for range size(1, 2) {
					if err := readSlowly(ctx, conn, count, valueSize, 5*time.Millisecond); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		wg.Wait()
	})
	other.end(t)
	bound := int64(readers)*4*mib + 24*mib
	t.Logf("%d readers, %d MiB in %v: resident memory grew by %.1f MiB (bound %d)", readers, int64(readers)*total/mib,
		time.Since(began).Round(time.Millisecond), float64(grown)/mib, bound/mib)
	check(t, grown < bound, "resident memory grew by %d MiB", grown/mib)
}

// TestReadersThatStopStopNobody: streams and watches whose client does not read, while it goes on with
// other calls on the same connection. Another client goes on, too, and memory stays bounded: a
// stream's first chunk has ten keys (5 MiB here), a watch's catch-up 1 MiB, and then both wait.
func TestReadersThatStopStopNobody(t *testing.T) {
	c := startSQLite(t)
	r := c.Replicas[0]
	kv := pb.NewKVClient(dial(t, r.Endpoint()))
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	const valueSize, count = 500 << 10, 100
	for i := range count {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "big/%05d", i), Value: bigValue(i, valueSize)})
		check(t, err == nil, "put: %v", err)
	}
	other := startProbe(t, r.Endpoint())
	grown := sampled(t, r, func() {
		for i := range 20 {
			conn := dial(t, r.Endpoint())
			stream, err := pb.NewKVClient(conn).RangeStream(ctx, &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")})
			check(t, err == nil, "stream: %v", err)
			_, err = stream.Recv()
			check(t, err == nil, "the first chunk: %v", err)
			watch, err := pb.NewWatchClient(conn).Watch(ctx)
			check(t, err == nil, "watch: %v", err)
			create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 2}
			err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
			check(t, err == nil, "watch: %v", err)
			short, end := context.WithTimeout(ctx, harness.Patience)
			_, err = pb.NewKVClient(conn).Put(short, &pb.PutRequest{Key: fmt.Appendf(nil, "beside/%d", i)})
			end()
			check(t, err == nil, "a write on connection %d, whose streams are not read: %v", i, err)
		}
		time.Sleep(time.Second)
	})
	other.end(t)
	t.Logf("20 connections with a stream and a watch that nobody reads: %.1f MiB", float64(grown)/mib)
	check(t, grown < 20*8*mib, "resident memory grew by %d MiB", grown/mib)
}

// idleConnection is an HTTP/2 session without a call.
func idleConnection(endpoint string) (*rawConn, error) {
	c, err := dialRaw(endpoint, harness.Patience)
	if err != nil {
		return nil, err
	}
	if err := c.preface(); err != nil {
		return nil, err
	}
	return c, nil
}

// TestManyIdleConnections: 2,000 of them; each costs less than 32 KiB (nghttp2's session and its two
// header tables take most of it), and each still answers in the end.
func TestManyIdleConnections(t *testing.T) {
	c := startSQLite(t)
	r := c.Replicas[0]
	const count = 2000
	var conns []*rawConn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	other := startProbe(t, r.Endpoint())
	time.Sleep(100 * time.Millisecond)
	before := resident(t, r)
	for i := range count {
		conn, err := idleConnection(r.Endpoint())
		check(t, err == nil, "connection %d: %v", i, err)
		conns = append(conns, conn)
	}
	for i, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(harness.Patience))
		err := conn.framer.WritePing(false, [8]byte{1, 2, 3})
		check(t, err == nil, "ping %d: %v", i, err)
		for {
			frame, err := conn.framer.ReadFrame()
			check(t, err == nil, "connection %d: %v", i, err)
			if ping, ok := frame.(*http2.PingFrame); ok {
				check(t, ping.IsAck(), "a ping from the server")
				break
			}
		}
	}
	each := (resident(t, r) - before) / count
	other.end(t)
	t.Logf("%d idle connections: %.1f KiB each", count, float64(each)/1024)
	check(t, each < 32<<10, "an idle connection takes %d bytes", each)
}

// TestManyWatchersOnOneStream: 10,000 of them, on keys of their own and then on one key.
func TestManyWatchersOnOneStream(t *testing.T) {
	c := startSQLite(t)
	r := c.Replicas[0]
	const count = 10000
	ctx := testContext(t)
	kv := pb.NewKVClient(dial(t, r.Endpoint()))
	for _, shared := range []bool{false, true} {
		stream, err := pb.NewWatchClient(dial(t, r.Endpoint())).Watch(ctx)
		check(t, err == nil, "watch: %v", err)
		key := func(i int) string {
			if shared {
				return "shared"
			}
			return fmt.Sprintf("own/%05d", i)
		}
		before := resident(t, r)
		began := time.Now()
		go func() {
			for i := range count {
				create := &pb.WatchCreateRequest{Key: []byte(key(i)), WatchId: int64(i) + 1}
				if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
					return
				}
			}
		}()
		for range count {
			resp, err := stream.Recv()
			check(t, err == nil && resp.Created && !resp.Canceled, "created: %v %v", resp, err)
		}
		each := (resident(t, r) - before) / count
		t.Logf("%d watchers (one key: %v) in %v: %d bytes each", count, shared, time.Since(began).Round(time.Millisecond), each)
		check(t, each < 2048, "a watcher takes %d bytes", each)
		began = time.Now()
		puts := map[string]int64{}
		for i := range 200 {
			k := key(i * 50 % count)
			if shared && i > 0 {
				break
			}
			put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(k), Value: []byte("v")})
			check(t, err == nil, "put: %v", err)
			puts[k] = put.Header.Revision
		}
		want := len(puts)
		if shared {
			want = count
		}
		seen := map[int64]bool{}
		for len(seen) < want {
			resp, err := stream.Recv()
			check(t, err == nil && len(resp.Events) == 1, "event: %v %v", resp, err)
			k := key(int(resp.WatchId) - 1)
			check(t, string(resp.Events[0].Kv.Key) == k && resp.Events[0].Kv.ModRevision == puts[k], "watcher %d of %s gets %v", resp.WatchId, k, resp)
			check(t, !seen[resp.WatchId], "watcher %d twice", resp.WatchId)
			seen[resp.WatchId] = true
		}
		t.Logf("%d events in %v", want, time.Since(began).Round(time.Millisecond))
		check(t, stream.CloseSend() == nil, "close")
	}
}

// TestACancelStorm: 20,000 calls, half of them watches, cancelled at once; others are served on.
func TestACancelStorm(t *testing.T) {
	c := startSQLite(t)
	r := c.Replicas[0]
	const conns, perConn = 4, 5000
	other := startProbe(t, r.Endpoint())
	var grown []int64
	for range size(1, 10) {
		ctx, cancel := context.WithCancel(testContext(t))
		before := resident(t, r)
		var wg, ready sync.WaitGroup
		var odd atomic.Pointer[string]
		for n := range conns {
			conn := dial(t, r.Endpoint())
			for i := range perConn {
				wg.Add(1)
				ready.Add(1)
				go func() {
					defer wg.Done()
					var err error
					if i%2 == 0 {
						err = oneWatch(ctx, conn, ready.Done)
					} else {
						ready.Done()
						ready.Wait() // All at once.
						_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "storm/%d/%d", n, i)})
					}
					if err != nil && status.Code(err) != codes.Canceled {
						text := err.Error()
						odd.CompareAndSwap(nil, &text)
					}
				}()
			}
		}
		ready.Wait()
		time.Sleep(10 * time.Millisecond)
		cancel()
		wg.Wait()
		if text := odd.Load(); text != nil {
			t.Fatal(*text)
		}
		grown = append(grown, resident(t, r)-before)
	}
	other.end(t)
	check(t, r.Process().Running(), "it ended:\n%s", r.LogTail(10))
	kv := pb.NewKVClient(dial(t, r.Endpoint()))
	all, err := kv.Range(testContext(t), &pb.RangeRequest{Key: []byte("storm/"), RangeEnd: []byte("storm0")})
	check(t, err == nil, "range: %v", err)
	for _, got := range all.Kvs {
		check(t, got.Version >= 1 && got.Version <= int64(len(grown)), "applied twice: %v", got)
	}
	for i := range grown {
		grown[i] /= mib
	}
	t.Logf("%d of the cancelled puts were done; memory grew by %v MiB", len(all.Kvs), grown)
	check(t, len(grown) < 3 || slices.Max(grown[2:]) < 64, "memory grows on and on: %v MiB", grown)
}

func oneWatch(ctx context.Context, conn *grpc.ClientConn, ready func()) error {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		create := &pb.WatchCreateRequest{Key: []byte("no such key")}
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	ready()
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

// TestAnIdleStopEndsWhatIsOpen: idle connections and watches. How long it takes is told.
func TestAnIdleStopEndsWhatIsOpen(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		c := start(t, setup)
		for _, r := range c.Replicas {
			var ends []chan error
			for range 10 {
				conn := dial(t, r.Endpoint())
				ended, ready := make(chan error, 1), make(chan struct{})
				go func() { ended <- oneWatch(testContext(t), conn, func() { close(ready) }) }()
				<-ready
				ends = append(ends, ended)
			}
			began := time.Now()
			check(t, r.Stop() == nil, "stop: %s", r.LogTail(10))
			took := time.Since(began)
			for _, ended := range ends {
				err := <-ended
				check(t, status.Code(err) == codes.Unavailable, "a watch ends with %v", err)
			}
			t.Logf("stopped in %v", took.Round(time.Millisecond))
		}
	})
}
