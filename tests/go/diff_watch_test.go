package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// history is etcd's log of all events, from a watcher over everything that never pauses. It tells
// how many events any other watcher must get.
type history struct {
	mu      sync.Mutex
	changed chan struct{}
	events  []historyEvent
	last    int64
	err     error
}

type historyEvent struct {
	rev int64
	del bool
	key []byte
}

func openHistory(conn *grpc.ClientConn) (*history, error) {
	stream, err := pb.NewWatchClient(conn).Watch(context.Background())
	if err != nil {
		return nil, err
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 2}
	union := &pb.WatchRequest_CreateRequest{CreateRequest: create}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: union}); err != nil {
		return nil, err
	}
	h := &history{changed: make(chan struct{}), last: 1}
	go func() {
		for {
			resp, err := stream.Recv()
			h.mu.Lock()
			h.err = err
			for _, e := range resp.GetEvents() {
				h.events = append(h.events, historyEvent{e.Kv.ModRevision, e.Type == mvccpb.Event_DELETE, e.Kv.Key})
				h.last = e.Kv.ModRevision
			}
			close(h.changed)
			h.changed = make(chan struct{})
			h.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return h, nil
}

// reach waits until the history holds |rev|.
func (h *history) reach(rev int64) error {
	deadline := time.After(watchTimeout)
	for {
		h.mu.Lock()
		last, err, changed := h.last, h.err, h.changed
		h.mu.Unlock()
		if last >= rev {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-deadline:
			return fmt.Errorf("etcd's own history stays at %d, not %d", last, rev)
		}
	}
}

// expected counts the events that a watcher created with |r| must have got by now.
func (h *history) expected(r *pb.WatchCreateRequest, from int64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	noPut := slices.Contains(r.Filters, pb.WatchCreateRequest_NOPUT)
	noDelete := slices.Contains(r.Filters, pb.WatchCreateRequest_NODELETE)
	key := r.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	start, _ := slices.BinarySearchFunc(h.events, from, func(e historyEvent, rev int64) int {
		if e.rev < rev {
			return -1
		}
		return 1
	})
	n := 0
	for _, e := range h.events[start:] {
		if inRange(e.key, key, r.RangeEnd) && !(e.del && noDelete) && !(!e.del && noPut) {
			n++
		}
	}
	return n
}

func inRange(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}

// watchPair is a create request and what it made on both sides.
type watchPair struct {
	op        *op
	req       *pb.WatchCreateRequest
	from      int64 // First revision to see.
	want, got *watcher
	live      bool
	compacted bool
	checked   int // Events compared so far.
}

func (r *runner) pairs(stream int) []*watchPair { return r.watchPairs[stream] }

func (r *runner) watchCreate(o *op) *deviation {
	req := resolve(o.req, r.current, r.compact, r.etcd.leaseOf).(*pb.WatchCreateRequest)
	if req.StartRevision > r.current || req.StartRevision > 0 && req.StartRevision < r.compact {
		o.stream = watchStreams - 1
	}
	for _, s := range []*side{r.etcd, r.drover} {
		if s.watches[o.stream] == nil {
			if _, err := s.openWatch(o.stream, int(r.seed)+o.stream); err != nil {
				return r.differ(o, req, "an open stream", s.name+": "+err.Error())
			}
		}
	}
	if err := r.drover.barrier(r.drover.watches[o.stream].replica); err != nil {
		return r.differ(o, req, "a linearizable read", err.Error())
	}
	want, err := r.etcd.watches[o.stream].create(req)
	if err != nil {
		return r.differ(o, req, "etcd: created", err.Error())
	}
	got, err := r.drover.watches[o.stream].create(req)
	if err != nil {
		return r.differ(o, req, short(want.created), err.Error())
	}
	r.hist.count(o, r, req, answer{resp: want.created})
	if !r.sameAnswer(answer{resp: want.created}, answer{resp: got.created}) {
		return r.differ(o, req, short(want.created), short(got.created))
	}
	if want.created.Canceled {
		return nil
	}
	p := &watchPair{op: o, req: req, from: req.StartRevision, want: want, got: got, live: true}
	if p.from == 0 {
		p.from = want.created.Header.Revision + 1
	}
	r.watchPairs[o.stream] = append(r.watchPairs[o.stream], p)
	if req.StartRevision > 0 && req.StartRevision < r.compact {
		p.live, p.compacted = false, true
		return r.ended(p, 1)
	}
	return nil
}

// ended waits for the |n|th cancel response of both sides and compares it.
func (r *runner) ended(p *watchPair, n int) *deviation {
	stream := p.op.stream
	err := r.etcd.watches[stream].await(watchTimeout, func() bool { return len(p.want.ends) >= n })
	if err != nil {
		return r.differ(p.op, p.req, "etcd: canceled", err.Error())
	}
	want := p.want.ends[n-1]
	err = r.drover.watches[stream].await(watchTimeout, func() bool { return len(p.got.ends) >= n })
	if err != nil {
		return r.differ(p.op, p.req, short(want), "no canceled response: "+err.Error())
	}
	if !r.sameAnswer(answer{resp: want}, answer{resp: p.got.ends[n-1]}) {
		return r.differ(p.op, p.req, short(want), short(p.got.ends[n-1]))
	}
	r.hist.answered(want)
	return nil
}

func (r *runner) watchCancel(o *op) *deviation {
	pairs := r.pairs(o.stream)
	if len(pairs) == 0 {
		return nil
	}
	id := int64(99999)
	var p *watchPair
	if o.target >= 0 {
		p = pairs[o.target%len(pairs)]
		id = p.want.created.WatchId
		if !p.live && !p.compacted {
			return nil // Its id may belong to another one now.
		}
	}
	if d := r.syncStream(o.stream); d != nil {
		return d
	}
	if err := r.drover.barrier(r.drover.watches[o.stream].replica); err != nil {
		return r.differ(o, nil, "a linearizable read", err.Error())
	}
	req := &pb.WatchCancelRequest{WatchId: id}
	r.hist.count(o, r, req, answer{resp: &pb.WatchResponse{}})
	for _, s := range []*side{r.etcd, r.drover} {
		union := &pb.WatchRequest_CancelRequest{CancelRequest: req}
		if err := s.watches[o.stream].stream.Send(&pb.WatchRequest{RequestUnion: union}); err != nil {
			return r.differ(o, req, "an open stream", s.name+": "+err.Error())
		}
	}
	if p == nil {
		return nil
	}
	n := 1
	if p.compacted {
		n = 2
	}
	p.live, p.compacted = false, false
	return r.ended(p, n)
}

// watchProgress asks until both answer, if the stream is one that etcd answers on; else both must
// keep silent.
func (r *runner) watchProgress(o *op) *deviation {
	if r.etcd.watches[o.stream] == nil {
		return nil
	}
	if d := r.syncStream(o.stream); d != nil {
		return d
	}
	if err := r.drover.barrier(r.drover.watches[o.stream].replica); err != nil {
		return r.differ(o, nil, "a linearizable read", err.Error())
	}
	speaks := false
	for _, p := range r.pairs(o.stream) {
		speaks = speaks || p.live
	}
	for _, p := range r.pairs(o.stream) {
		if p.compacted || p.live && p.from > r.current && p.req.StartRevision != 0 {
			speaks = false
		}
	}
	r.hist.count(o, r, &pb.WatchProgressRequest{}, answer{resp: &pb.WatchResponse{}})
	if len(r.pairs(o.stream)) == 0 {
		return nil
	}
	if !speaks {
		r.hist.add("watch/progress unanswered")
		return r.silence(o)
	}
	for _, s := range []*side{r.etcd, r.drover} {
		rev, err := s.askProgress(o.stream, r.current, watchTimeout)
		if err != nil {
			return r.differ(o, nil, "a progress response", s.name+": "+err.Error())
		}
		if rev != r.current {
			return r.differ(o, nil, fmt.Sprint("progress at ", r.current), fmt.Sprint(s.name, ": ", rev))
		}
	}
	return nil
}

// askProgress asks until an answer comes, and returns its revision. An answer below |current| may be
// one to an earlier call's question, as long as there were more questions than answers before.
func (s *side) askProgress(stream int, current int64, timeout time.Duration) (int64, error) {
	w := s.watches[stream]
	w.mu.Lock()
	seen, asked := len(w.progress), w.asked
	w.mu.Unlock()
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); {
		union := &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
		if err := w.stream.Send(&pb.WatchRequest{RequestUnion: union}); err != nil {
			return 0, err
		}
		w.asked++
		for w.await(100*time.Millisecond, func() bool { return len(w.progress) > seen }) == nil {
			w.mu.Lock()
			rev := w.progress[seen]
			w.mu.Unlock()
			if seen++; rev >= current || seen > asked {
				return rev, nil
			}
		}
	}
	return 0, errors.New("no answer")
}

// silence wants both to answer, or neither. One that speaks alone may have told an old answer, or the
// other one is slow: then they are asked again, and given more time.
func (r *runner) silence(o *op) *deviation {
	spoke := make([]bool, 2)
	for patience := 200 * time.Millisecond; patience < time.Minute; patience *= 4 {
		var wg sync.WaitGroup
		for i, s := range []*side{r.etcd, r.drover} {
			wg.Add(1)
			go func() {
				defer wg.Done()
				_, err := s.askProgress(o.stream, 0, patience)
				spoke[i] = err == nil
			}()
		}
		wg.Wait()
		if spoke[0] == spoke[1] {
			return nil
		}
	}
	return r.differ(o, nil, fmt.Sprint("a progress response: ", spoke[0]), fmt.Sprint(spoke[1]))
}

// sync waits until every live watcher of both sides has what it must get, and compares that.
func (r *runner) sync(*op) *deviation {
	for i := range watchStreams {
		if d := r.syncStream(i); d != nil {
			return d
		}
	}
	return nil
}

// settle waits until every watcher is level with the store: its history has been read, even when
// there was nothing in it.
func (r *runner) settle() *deviation {
	if d := r.sync(nil); d != nil {
		return d
	}
	for i := range watchStreams - 1 {
		if d := r.watchProgress(&op{kind: opProgress, stream: i}); d != nil {
			return d
		}
	}
	return nil
}

func (r *runner) syncStream(stream int) *deviation {
	if len(r.pairs(stream)) == 0 {
		return nil
	}
	if err := r.history.reach(r.current); err != nil {
		return r.differ(&op{kind: opSync, stream: stream}, nil, "a complete history", err.Error())
	}
	for _, p := range r.pairs(stream) {
		if !p.live {
			continue
		}
		n := r.history.expected(p.req, p.from)
		for _, s := range []*side{r.etcd, r.drover} {
			w := p.want
			if s == r.drover {
				w = p.got
			}
			err := s.watches[stream].await(watchTimeout, func() bool { return w.count >= n })
			if err != nil {
				d := r.compareEvents(p)
				if d == nil || s == r.etcd {
					d = r.differ(p.op, p.req, fmt.Sprint(n, " events"),
						fmt.Sprint(s.name, ": ", w.count, " events, ", err))
				}
				return d
			}
		}
		if d := r.compareEvents(p); d != nil {
			return d
		}
	}
	return r.oddities(stream)
}

func (r *runner) oddities(stream int) *deviation {
	for _, s := range []*side{r.etcd, r.drover} {
		w := s.watches[stream]
		w.mu.Lock()
		odd := slices.Clone(w.oddities)
		w.mu.Unlock()
		if len(odd) > 0 {
			return r.differ(&op{kind: opSync, stream: stream}, nil, "an orderly stream", s.name+": "+odd[0])
		}
	}
	return nil
}

// compareEvents compares what came since the last time, event for event.
func (r *runner) compareEvents(p *watchPair) *deviation {
	want := r.etcd.watches[p.op.stream].eventsOf(p.want, p.checked)
	got := r.drover.watches[p.op.stream].eventsOf(p.got, p.checked)
	for i := range max(len(want), len(got)) {
		var a, b proto.Message
		if i < len(want) {
			a = r.etcd.normalize(want[i])
		}
		if i < len(got) {
			b = r.drover.normalize(got[i])
		}
		if a == nil || b == nil || !proto.Equal(a, b) {
			return r.differ(p.op, p.req, fmt.Sprintf("event %d: %s", p.checked+i, short(a)), short(b))
		}
	}
	p.checked += len(want)
	for _, e := range want {
		r.hist.event(e)
	}
	return nil
}

func (w *watchStream) eventsOf(watcher *watcher, skip int) []*mvccpb.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*mvccpb.Event
	for _, resp := range watcher.events {
		if skip >= len(resp.Events) {
			skip -= len(resp.Events)
			continue
		}
		all = append(all, resp.Events[skip:]...)
		skip = 0
	}
	return all
}

func (r *runner) closeWatches() {
	for i := range watchStreams {
		for _, s := range []*side{r.etcd, r.drover} {
			if s.watches[i] != nil {
				s.watches[i].cancel()
				s.watches[i] = nil
			}
		}
		r.watchPairs[i] = nil
	}
}
