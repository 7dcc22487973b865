package tests

// Goal: drover answers as etcd does, field by field, error by error and event for event.
// Method: generated programs run on an embedded etcd and on drover at once; see diff_gen_test.go
// for what they hold and diff_compare_test.go for the few things that are not compared.

import (
	"fmt"
	"slices"
	"strings"
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

func newPair(setup harness.Setup, hist *histogram, alter alterFn) (*pair, error) {
	etcd, err := harness.StartEtcd(1)
	if err != nil {
		return nil, err
	}
	drover, err := harness.StartCluster(setup)
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
	p.runner.drover.alter = alter
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
func tryProgram(setup harness.Setup, seed int64, program []step, alter alterFn) (*deviation, error) {
	p, err := newPair(setup, newHistogram(), alter)
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
		d, err := tryProgram(setup, seed, candidate, nil)
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

func differential(t *testing.T, setup harness.Setup) {
	t.Parallel()
	first, target := seed(t), size(8000, 100000)
	hist := newHistogram()
	p, err := newPair(setup, hist, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.close() }()
	ops, programs, deviations, began := 0, 0, 0, time.Now()
	for ; ops < target; programs++ {
		p.runner.seed, p.runner.ops = first+int64(programs), 0
		program := generate(p.runner.seed, programOps, setup.Replicas)
		d := p.runner.run(program)
		ops += p.runner.ops
		if d == nil {
			continue
		}
		deviations++
		t.Errorf("%v", d)
		report(d.String())
		if deviations == deviationsMax {
			t.Fatalf("%d deviations are enough", deviations)
		}
		if deviations <= 3 {
			if least := shrink(setup, d.seed, program[:d.index+1], d.method); least != nil {
				text := fmt.Sprintf("the least program of seed %d that fails:\n%s", d.seed, describe(least))
				t.Log(text)
				report(text)
			}
		}
		p.close()
		if p, err = newPair(setup, hist, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v: %d operations in %d programs, seeds %d to %d, %v", setup, ops, programs, first,
		first+int64(programs)-1, time.Since(began).Round(time.Second))
	t.Logf("histogram:\n%s", hist)
	if lacking := hist.lacking(size(5, 50)); len(lacking) > 0 {
		t.Errorf("too seldom:\n%s", strings.Join(lacking, "\n"))
	}
}
