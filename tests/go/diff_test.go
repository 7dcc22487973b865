package tests

// Goal: drover answers as etcd does, field by field, error by error and event for event.
// Method: generated programs run on an embedded etcd and on drover at once; see diff_gen_test.go
// for what they hold and diff_compare_test.go for the few things that are not compared.

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/tests/harness"
)

const (
	programOps     = 250
	deviationsMax  = 10 // Then a run has seen enough.
	shrinkDuration = 40 * time.Second
)

// pair is an etcd and a drover with the same history.
type pair struct {
	runner *runner
	etcd   []*harness.Etcd
	drover *harness.Cluster
}

func newPair(setup harness.Setup, hist *histogram, extra ...string) (*pair, error) {
	etcd, err := harness.StartEtcd(1)
	if err != nil {
		return nil, err
	}
	drover, err := harness.StartCluster(setup, extra...)
	if err != nil {
		etcd[0].Close()
		return nil, err
	}
	p := &pair{etcd: etcd, drover: drover}
	p.runner = &runner{setup: setup, hist: hist, current: 1}
	if p.runner.etcd, err = newSide("etcd", []string{etcd[0].Endpoint()}); err != nil {
		return nil, err
	}
	if p.runner.drover, err = newSide("drover", drover.Endpoints()); err != nil {
		return nil, err
	}
	p.runner.history, err = openHistory(p.runner.etcd.conn(0))
	return p, err
}

func (p *pair) close() {
	p.runner.etcd.close()
	p.runner.drover.close()
	p.drover.Kill()
	p.etcd[0].Close()
}

// tryProgram runs a program on a fresh pair.
func tryProgram(setup harness.Setup, seed int64, program []step) (*deviation, error) {
	p, err := newPair(setup, newHistogram())
	if err != nil {
		return nil, err
	}
	defer p.close()
	p.runner.seed = seed
	return p.runner.run(program), nil
}

// shrink cuts a failing program down by leaving out ever smaller pieces, as long as it still fails
// in the same method, until time is up. The first deviation that it saw stays the one reported.
func shrink(setup harness.Setup, seed int64, program []step, method string) []step {
	deadline := time.Now().Add(shrinkDuration)
	fails := func(candidate []step) bool {
		d, err := tryProgram(setup, seed, candidate)
		return err == nil && d != nil && d.method == method
	}
	if !fails(program) {
		return nil
	}
	for piece := len(program) / 2; piece >= 1 && time.Now().Before(deadline); piece /= 2 {
		for at := 0; at < len(program) && time.Now().Before(deadline); {
			end := min(at+piece, len(program))
			candidate := slices.Concat(program[:at], program[end:])
			if len(candidate) > 0 && fails(candidate) {
				program = candidate
			} else {
				at = end
			}
		}
	}
	return program
}

func describe(program []step) string {
	var b strings.Builder
	for i, s := range program {
		for j := range s {
			fmt.Fprintf(&b, "    %d: %s\n", i, s[j].String())
		}
	}
	return b.String()
}

func TestEveryAnswerIsEtcds(t *testing.T) {
	eachSetup(t, differential)
}

// campaign is what the workers of one setup share: much of a program's time is waiting for etcd's
// watchers, so several run side by side, each on a pair of its own.
type campaign struct {
	t          *testing.T
	setup      harness.Setup
	hist       *histogram
	target     int64
	next       atomic.Int64 // Seed.
	ops        atomic.Int64
	deviations atomic.Int64
	shrinking  sync.Mutex
}

func differential(t *testing.T, setup harness.Setup) {
	t.Parallel()
	first := seed(t)
	c := &campaign{t: t, setup: setup, hist: newHistogram(), target: int64(size(8000, 100000))}
	c.next.Store(first)
	began := time.Now()
	var wg sync.WaitGroup
	for range size(2, 4) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.work(); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	t.Logf("%v: %d operations, seeds %d to %d, %v", setup, c.ops.Load(), first, c.next.Load()-1,
		time.Since(began).Round(time.Second))
	t.Logf("histogram:\n%s", c.hist)
	if lacking := c.hist.lacking(c.least()); len(lacking) > 0 {
		t.Errorf("too seldom:\n%s", strings.Join(lacking, "\n"))
	}
}

// goesOn tells whether more programs are wanted: up to the target, and then, within limits, until
// everything has occurred often enough.
func (c *campaign) goesOn() bool {
	ops := c.ops.Load()
	if c.deviations.Load() >= deviationsMax || ops >= 4*c.target {
		return false
	}
	return ops < c.target || len(c.hist.lacking(c.least())) > 0
}

func (c *campaign) least() int { return size(5, 50) }

// work runs programs on one pair, and on a new one after each that failed.
func (c *campaign) work() error {
	p, err := newPair(c.setup, c.hist)
	if err != nil {
		return err
	}
	defer func() { p.close() }()
	for c.goesOn() {
		p.runner.seed, p.runner.ops = c.next.Add(1)-1, 0
		program := generate(p.runner.seed, programOps, c.setup.Replicas)
		d := p.runner.run(program)
		c.ops.Add(int64(p.runner.ops))
		if d == nil {
			continue
		}
		c.failed(d, program[:d.index+1])
		p.close()
		if p, err = newPair(c.setup, c.hist); err != nil {
			return err
		}
	}
	return nil
}

func (c *campaign) failed(d *deviation, program []step) {
	n := c.deviations.Add(1)
	c.t.Errorf("%v", d)
	report(d.String())
	if n > 3 {
		return
	}
	c.shrinking.Lock()
	defer c.shrinking.Unlock()
	text := fmt.Sprintf("seed %d by itself, on an empty store, does not fail", d.seed)
	if least := shrink(c.setup, d.seed, program, d.method); least != nil {
		text = fmt.Sprintf("the least program of seed %d that fails:\n%s", d.seed, describe(least))
	}
	c.t.Log(text)
	report(text)
}
