package tests

// The runner: sends each step of a program to both sides and compares what they answer.

import (
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

func pause() { time.Sleep(20 * time.Millisecond) }

// deviation is one answer that differs.
type deviation struct {
	setup    harness.Setup
	seed     int64
	index    int // Of the step.
	method   string
	request  string
	expected string
	got      string
}

func (d *deviation) String() string {
	return fmt.Sprintf("%v seed=%d step=%d %s\n  request:  %s\n  expected: %s\n  got:      %s",
		d.setup, d.seed, d.index, d.method, d.request, d.expected, d.got)
}

type runner struct {
	setup   harness.Setup
	seed    int64
	etcd    *side
	drover  *side
	history *history
	hist    *histogram
	current int64 // Revision.
	compact int64
	index   int
	ops     int

	watchPairs [watchStreams][]*watchPair
}

func (r *runner) differ(o *op, req proto.Message, expected, got string) *deviation {
	sent := *o
	sent.req = req
	return &deviation{setup: r.setup, seed: r.seed, index: r.index, method: o.method(),
		request: sent.String(), expected: expected, got: got}
}

// run executes a program and returns the first deviation.
func (r *runner) run(program []step) *deviation {
	defer r.closeWatches()
	for i, s := range program {
		r.index = i
		if d := r.runStep(s); d != nil {
			return d
		}
		r.ops += len(s)
	}
	return nil
}

func (r *runner) runStep(s step) *deviation {
	switch s[0].kind {
	case opWatch:
		return r.watchCreate(&s[0])
	case opCancel:
		return r.watchCancel(&s[0])
	case opProgress:
		return r.watchProgress(&s[0])
	case opSync:
		return r.sync(&s[0])
	}
	if _, ok := s[0].req.(*pb.CompactionRequest); ok {
		// Whether prev_kv and history are still there must not depend on who is faster.
		if d := r.settle(); d != nil {
			return d
		}
	}
	return r.calls(s)
}

// calls sends all ops of a step at once to both sides.
func (r *runner) calls(s step) *deviation {
	wants, gots := make([]answer, len(s)), make([]answer, len(s))
	reqs, ours := make([]proto.Message, len(s)), make([]proto.Message, len(s))
	var wg sync.WaitGroup
	for i := range s {
		reqs[i] = resolve(s[i].req, r.current, r.compact, r.etcd.leaseOf)
		ours[i] = resolve(s[i].req, r.current, r.compact, r.drover.leaseOf)
		wg.Add(2)
		go func() { defer wg.Done(); wants[i] = r.etcd.do(&s[i], reqs[i]) }()
		go func() { defer wg.Done(); gots[i] = r.drover.do(&s[i], ours[i]) }()
	}
	wg.Wait()
	for i := range s {
		r.learn(&s[i], reqs[i], wants[i], gots[i])
	}
	for i := range s {
		r.hist.count(&s[i], r, reqs[i], wants[i])
		if !r.compare(&s[i], reqs[i], ours[i], wants[i], gots[i]) {
			return r.differ(&s[i], ours[i], wants[i].String(), gots[i].String())
		}
		if s[i].kind == opStream && gots[i].err == nil {
			if d := r.streamIsUnary(&s[i], ours[i], gots[i]); d != nil {
				return d
			}
		}
	}
	return nil
}

// learn takes from the answers what later steps stand on.
func (r *runner) learn(o *op, req proto.Message, want, got answer) {
	if want.err != nil {
		return
	}
	r.current = max(r.current, headerOf(want.resp).GetRevision())
	switch q := req.(type) {
	case *pb.CompactionRequest:
		r.compact = q.Revision
	case *pb.LeaseGrantRequest:
		if q.ID == 0 {
			r.etcd.learnLease(o.slot, want)
			r.drover.learnLease(o.slot, got)
		}
	}
}

func (s *side) learnLease(slot int, a answer) {
	if resp, ok := a.resp.(*pb.LeaseGrantResponse); ok && resp.ID != 0 {
		s.slots[slot] = resp.ID
		s.symbols[resp.ID] = symLease + int64(len(s.symbols))
	}
}

// streamIsUnary: the merged chunks of a stream are the answer of the unary call; as far as they are
// in etcd, whose stream miscounts when a sort target stands without an order.
func (r *runner) streamIsUnary(o *op, req proto.Message, merged answer) *deviation {
	if o.isLocal() && r.setup.Replicas > 1 {
		return nil // The replica may have moved on in between.
	}
	whole := r.drover.unary(o, req)
	stream := answer{resp: merged.resp.(*pb.RangeStreamResponse).RangeResponse}
	if whole.err == nil && proto.Equal(r.drover.normalize(whole.resp), r.drover.normalize(stream.resp)) {
		return nil
	}
	if r.etcdContradictsItself(o, req) {
		return nil
	}
	return r.differ(o, req, "as the unary Range: "+whole.String(), stream.String())
}

// unary sends the request of a RangeStream as a Range.
func (s *side) unary(o *op, req proto.Message) answer {
	call := *o
	call.kind = opCall
	return s.do(&call, req)
}

func (r *runner) etcdContradictsItself(o *op, req proto.Message) bool {
	whole, stream := r.etcd.unary(o, req), r.etcd.do(o, req)
	if whole.err != nil || stream.err != nil {
		return false
	}
	merged := stream.resp.(*pb.RangeStreamResponse).RangeResponse
	if proto.Equal(r.etcd.normalize(whole.resp), r.etcd.normalize(merged)) {
		return false
	}
	r.hist.add("etcd's stream is not its unary")
	return true
}

// barrier makes the replica of a watch stream as new as the last answer.
func (s *side) barrier(replica int) error {
	return s.do(&op{replica: replica}, &pb.RangeRequest{Key: []byte("barrier"), CountOnly: true}).err
}
