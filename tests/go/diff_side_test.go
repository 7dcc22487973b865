package tests

// A side of the comparison: etcd or drover, its connections, its lease ids and its open streams.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

const (
	callTimeout  = harness.Patience
	watchTimeout = harness.Patience
)

// alterFn is a planted deviation: it may change what a side answered.
type alterFn func(method string, req, resp proto.Message, err error) (proto.Message, error)

type side struct {
	name     string
	conns    []*grpc.ClientConn
	alter    alterFn
	books    leaseBooks
	slots    [leaseSlots]int64 // Lease ids, 0: none.
	symbols  map[int64]int64   // Lease id to symbol.
	keeps    []pb.Lease_LeaseKeepAliveClient
	watches  [watchStreams]*watchStream
	watchGen int
}

func newSide(name string, endpoints []string) (*side, error) {
	s := &side{name: name, symbols: map[int64]int64{}}
	for _, endpoint := range endpoints {
		conn, err := harness.Dial(endpoint)
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, conn)
		s.keeps = append(s.keeps, nil)
	}
	return s, nil
}

func (s *side) close() {
	for _, conn := range s.conns {
		conn.Close()
	}
}

func (s *side) conn(replica int) *grpc.ClientConn { return s.conns[replica%len(s.conns)] }

func (s *side) leaseOf(slot int) int64 {
	if slot < 0 || slot >= leaseSlots || s.slots[slot] == 0 {
		return unknownLease
	}
	return s.slots[slot]
}

// answer is what one op got: a message or an error, never both.
type answer struct {
	resp proto.Message
	err  error
	// Of a LeaseTimeToLive: the remaining time is one that the side may tell.
	inTime bool
}

func (a answer) String() string {
	if a.err != nil {
		st := status.Convert(a.err)
		return fmt.Sprintf("error %d (%v) %q", st.Code(), st.Code(), st.Message())
	}
	return short(a.resp)
}

// do sends a resolved request and returns the answer as it came.
func (s *side) do(o *op, req proto.Message) answer {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	asked := time.Now()
	resp, err := s.send(ctx, o, req)
	if s.alter != nil {
		resp, err = s.alter(o.method(), req, resp, err)
	}
	if err != nil {
		return answer{err: err}
	}
	return answer{resp: resp, inTime: s.books.note(o.replica%len(s.conns), req, resp, asked)}
}

// leaseBooks is what a side's client knows of the time of its leases.
type leaseBooks struct {
	mu    sync.Mutex
	books map[int64]leaseTimes
}

// leaseTimes are moments before a grant or keep-alive was sent.
type leaseTimes struct {
	granted time.Time
	renewed time.Time
	ttl     time.Duration
	replica int // That renewed it: others may learn of it later.
}

// note takes down what was granted and renewed, and judges the remaining time that a LeaseTimeToLive
// tells: no less than the TTL less all the time since the request that (re)started it was sent, and
// no more than the TTL. Both sides differ by what their requests took, and a server that was stalled
// starts a lease's time again; that it goes down at all is another test's.
func (b *leaseBooks) note(replica int, req, resp proto.Message, asked time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.books == nil {
		b.books = map[int64]leaseTimes{}
	}
	switch r := resp.(type) {
	case *pb.LeaseGrantResponse:
		b.books[r.ID] = leaseTimes{asked, asked, time.Duration(r.TTL) * time.Second, replica}
	case *pb.LeaseKeepAliveResponse:
		if times, ok := b.books[r.ID]; ok && r.TTL > 0 {
			b.books[r.ID] = leaseTimes{times.granted, asked, times.ttl, replica}
		}
	case *pb.LeaseRevokeResponse:
		delete(b.books, req.(*pb.LeaseRevokeRequest).ID)
	case *pb.LeaseTimeToLiveResponse:
		times, ok := b.books[r.ID]
		from := times.granted
		if times.replica == replica {
			from = times.renewed
		}
		least := int64(0)
		if ok {
			least = r.GrantedTTL - int64(time.Since(from)/time.Second) - 1
		}
		return r.TTL >= least && r.TTL <= r.GrantedTTL
	}
	return true
}

func (s *side) send(ctx context.Context, o *op, req proto.Message) (proto.Message, error) {
	conn := s.conn(o.replica)
	switch o.kind {
	case opStream:
		return rangeStream(ctx, conn, req.(*pb.RangeRequest))
	case opKeep:
		return s.keepAlive(o.replica, req.(*pb.LeaseKeepAliveRequest))
	}
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	switch r := req.(type) {
	case *pb.RangeRequest:
		return orErr(kv.Range(ctx, r))
	case *pb.PutRequest:
		return orErr(kv.Put(ctx, r))
	case *pb.DeleteRangeRequest:
		return orErr(kv.DeleteRange(ctx, r))
	case *pb.TxnRequest:
		return orErr(kv.Txn(ctx, r))
	case *pb.CompactionRequest:
		return orErr(kv.Compact(ctx, r))
	case *pb.LeaseGrantRequest:
		return orErr(lease.LeaseGrant(ctx, r))
	case *pb.LeaseRevokeRequest:
		return orErr(lease.LeaseRevoke(ctx, r))
	case *pb.LeaseTimeToLiveRequest:
		return orErr(lease.LeaseTimeToLive(ctx, r))
	case *pb.LeaseLeasesRequest:
		return orErr(lease.LeaseLeases(ctx, r))
	}
	return nil, fmt.Errorf("no such request: %T", req)
}

// orErr keeps a typed nil out of the answer.
func orErr[T proto.Message](resp T, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// rangeStream merges the chunks, and wants those rules of kube-apiserver that no merged answer
// shows: a chunk without keys is the last one, and the last one carries the header.
func rangeStream(ctx context.Context, conn *grpc.ClientConn, r *pb.RangeRequest) (proto.Message, error) {
	stream, err := pb.NewKVClient(conn).RangeStream(ctx, r)
	if err != nil {
		return nil, err
	}
	merged := &pb.RangeStreamResponse{}
	ended := ""
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if ended != "" {
			return nil, errors.New("RangeStream: a chunk follows " + ended)
		}
		if len(chunk.GetRangeResponse().GetKvs()) == 0 {
			ended = "one without keys"
		}
		if chunk.GetRangeResponse().GetMore() || chunk.GetRangeResponse().GetCount() > 0 {
			ended = "the one with more or count"
		}
		proto.Merge(merged, chunk)
	}
	if merged.GetRangeResponse().GetHeader() == nil {
		return nil, errors.New("RangeStream: no chunk carries a header")
	}
	return merged, nil
}

func (s *side) keepAlive(replica int, r *pb.LeaseKeepAliveRequest) (proto.Message, error) {
	i := replica % len(s.conns)
	if s.keeps[i] == nil {
		stream, err := pb.NewLeaseClient(s.conns[i]).LeaseKeepAlive(context.Background())
		if err != nil {
			return nil, err
		}
		s.keeps[i] = stream
	}
	if err := s.keeps[i].Send(r); err != nil {
		s.keeps[i] = nil
		return nil, err
	}
	type got struct {
		resp *pb.LeaseKeepAliveResponse
		err  error
	}
	ch := make(chan got, 1)
	stream := s.keeps[i]
	go func() {
		resp, err := stream.Recv()
		ch <- got{resp, err}
	}()
	select {
	case g := <-ch:
		if g.err != nil {
			s.keeps[i] = nil
		}
		return orErr(g.resp, g.err)
	case <-time.After(callTimeout):
		s.keeps[i] = nil
		return nil, errors.New("LeaseKeepAlive: no answer")
	}
}

// mayBeGone tells whether |id| was granted so long ago that it may have ended.
func (b *leaseBooks) mayBeGone(id int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	times, ok := b.books[id]
	return ok && time.Since(times.granted) >= times.ttl
}

// watchStream is one open Watch call; the reader goroutine files what comes in.
type watchStream struct {
	side    *side
	replica int
	stream  pb.Watch_WatchClient
	cancel  context.CancelFunc

	mu       sync.Mutex
	changed  chan struct{} // Closed and renewed when something came in.
	created  []*watcher    // In the order of the requests; answered ones first.
	answered int
	byID     map[int64]*watcher
	progress []int64 // Revisions of the answers with watch id -1.
	asked    int     // Progress requests; the runner's.
	oddities []string
	err      error
}

// watcher is what one create request got.
type watcher struct {
	created  *pb.WatchResponse
	events   []*pb.WatchResponse // Not copied: one per response, with its events.
	count    int                 // Events in all of them.
	ends     []*pb.WatchResponse // Cancel responses.
	lastRev  int64               // Highest mod_revision, or progress revision.
	splitRev int64               // A revision that a fragment has left open.
}

func (s *side) openWatch(i, replica int) (*watchStream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(s.conn(replica)).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &watchStream{side: s, replica: replica, stream: stream, cancel: cancel,
		changed: make(chan struct{}), byID: map[int64]*watcher{}}
	s.watches[i] = w
	go w.read()
	return w, nil
}

func (w *watchStream) read() {
	for {
		resp, err := w.stream.Recv()
		var got proto.Message = resp
		if w.side.alter != nil && err == nil {
			got, err = w.side.alter("Watch", nil, resp, nil)
		}
		w.mu.Lock()
		if err != nil {
			w.err = err
		} else if got != nil {
			w.file(got.(*pb.WatchResponse))
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (w *watchStream) odd(format string, args ...any) {
	if len(w.oddities) < 20 {
		w.oddities = append(w.oddities, fmt.Sprintf(format, args...))
	}
}

// file puts one response where it belongs. Under the lock.
func (w *watchStream) file(r *pb.WatchResponse) {
	if r.Created {
		if w.answered == len(w.created) {
			w.odd("created without a request: %s", short(r))
			return
		}
		watcher := w.created[w.answered]
		w.answered++
		watcher.created = r
		if !r.Canceled {
			w.byID[r.WatchId] = watcher
		}
		return
	}
	if r.WatchId == -1 && len(r.Events) == 0 && !r.Canceled {
		w.progress = append(w.progress, r.Header.GetRevision())
		for _, watcher := range w.byID { // No event up to here may follow.
			watcher.lastRev = max(watcher.lastRev, r.Header.GetRevision())
		}
		return
	}
	watcher := w.byID[r.WatchId]
	if watcher == nil || len(watcher.ends) > 0 && !r.Canceled {
		w.odd("a response for no watcher: %s", short(r))
		return
	}
	if r.Canceled {
		watcher.ends = append(watcher.ends, r)
		return
	}
	w.fileEvents(watcher, r)
}

// fileEvents checks what every stream of events must keep, wherever its responses are cut.
func (w *watchStream) fileEvents(watcher *watcher, r *pb.WatchResponse) {
	header := r.Header.GetRevision()
	if len(r.Events) == 0 { // A progress notice.
		if header < watcher.lastRev {
			w.odd("progress notice at %d behind an event at %d", header, watcher.lastRev)
		}
		watcher.lastRev = max(watcher.lastRev, header)
		return
	}
	first := r.Events[0].GetKv().GetModRevision()
	if first <= watcher.lastRev && first != watcher.splitRev {
		w.odd("an event at %d behind one at %d", first, watcher.lastRev)
	}
	last := r.Events[len(r.Events)-1].GetKv().GetModRevision()
	if header < last {
		w.odd("header revision %d below its event's %d", header, last)
	}
	watcher.splitRev = 0
	if r.Fragment {
		watcher.splitRev = last
	}
	watcher.lastRev = max(watcher.lastRev, last)
	watcher.events = append(watcher.events, r)
	watcher.count += len(r.Events)
}

// await waits until |ready|, which runs under the lock, is true.
func (w *watchStream) await(timeout time.Duration, ready func() bool) error {
	deadline := time.After(timeout)
	for {
		w.mu.Lock()
		ok, err, changed := ready(), w.err, w.changed
		w.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch stream ended: %w", err)
		}
		select {
		case <-changed:
		case <-deadline:
			return errors.New("timeout")
		}
	}
}

func (w *watchStream) create(r *pb.WatchCreateRequest) (*watcher, error) {
	watcher := &watcher{}
	w.mu.Lock()
	w.created = append(w.created, watcher)
	w.mu.Unlock()
	union := &pb.WatchRequest_CreateRequest{CreateRequest: r}
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: union}); err != nil {
		return watcher, err
	}
	err := w.await(watchTimeout, func() bool { return watcher.created != nil })
	if err != nil {
		err = fmt.Errorf("no created response: %w", err)
	}
	return watcher, err
}
