package tests

// Goal: etcdctl works with drover as with etcd, the old one of Debian and the newest.
// Method: one script of commands runs against etcd and against drover; outputs and exit codes must
// be the same. With three replicas each command goes to another one.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/tests/harness"
)

// ctlStep is one command; |input| is its stdin. |except| hides what may differ.
type ctlStep struct {
	args   string
	input  string
	except *regexp.Regexp
	sleep  time.Duration // Before the command.
	repeat bool          // Until the output is etcd's, for what other replicas tell later.
}

var (
	leaseID   = regexp.MustCompile(`\b[0-9a-f]{9,16}\b`)
	remaining = regexp.MustCompile(`remaining\([0-9]+s\)`)
	took      = regexp.MustCompile(`took = [0-9.]+[µmn]?s`)
	endpoint  = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)
	jsonIDs   = regexp.MustCompile(`"(cluster_id|member_id|raft_term)":[0-9]+`)
)

// ctlScript holds LEASE where the id of the lease granted last belongs.
var ctlScript = []ctlStep{
	{args: "put foo bar"},
	{args: "put foo1 bar1"},
	{args: "put foo2 bar2"},
	{args: "put foo3 bar3"},
	{args: "put a aa"},
	{args: "put -- -dash value"},
	{args: "put foo", input: "from stdin"},
	{args: "put foo bar --prev-kv"},
	{args: "put foo --ignore-value"},
	{args: "put none --ignore-value"},
	{args: "get foo"},
	{args: "get none"},
	{args: "get foo foo3"},
	{args: "get --prefix foo"},
	{args: "get --from-key foo2"},
	{args: "get --prefix --limit=2 foo"},
	{args: "get --prefix --keys-only foo"},
	{args: "get --prefix --print-value-only foo"},
	{args: "get --prefix --count-only --write-out=fields foo", except: regexp.MustCompile(`"(ClusterID|MemberID|RaftTerm)" : [0-9]+`)},
	{args: "get --prefix --sort-by=VALUE --order=DESCEND foo"},
	{args: "get --prefix --sort-by=MODIFY --order=ASCEND foo"},
	{args: "get --prefix --sort-by=CREATE --order=DESCEND --limit=1 foo"},
	{args: "get --prefix --sort-by=VERSION foo"},
	{args: "get --rev=4 --prefix foo"},
	{args: "get --rev=100 foo"},
	{args: "get --consistency=s foo", repeat: true},
	{args: "get --hex foo"},
	{args: "get -w json --prefix foo", except: jsonIDs},
	{args: "get -w fields foo", except: regexp.MustCompile(`"(ClusterID|MemberID|RaftTerm)" : [0-9]+`)},
	{args: "del foo3"},
	{args: "del foo3"},
	{args: "del --prev-kv foo2"},
	{args: "del --prefix foo1"},
	{args: "txn -i", input: "value(\"foo\") = \"bar\"\nmod(\"a\") > \"1\"\n\nput foo txn\nget foo\nget --prefix a\n\nput foo failed\n\n"},
	{args: "txn -i", input: "version(\"foo\") = \"99\"\n\nput foo txn\n\nget foo\ndel a\n\n"},
	{args: "txn", input: "create(\"none\") = \"0\"\n\nput new one\n\nput new two\n\n"},
	{args: "get --prefix \"\""},
	{args: "watch --rev=2 --prefix foo LIMIT"},
	{args: "watch --rev=2 --prev-kv foo LIMIT"},
	{args: "watch --rev=2 a z LIMIT"},
	{args: "lease grant 600"},
	{args: "put --lease=LEASE leased1 x"},
	{args: "put --lease=LEASE leased2 y"},
	{args: "put --lease=12345 unknown y"},
	{args: "lease timetolive LEASE", except: remaining},
	{args: "lease timetolive LEASE --keys", except: remaining},
	{args: "lease keep-alive --once LEASE"},
	{args: "lease list", repeat: true},
	{args: "lease revoke LEASE"},
	{args: "lease revoke LEASE"},
	{args: "lease timetolive LEASE"},
	{args: "get --prefix leased"},
	{args: "lease grant 2"},
	{args: "put --lease=LEASE short z"},
	{args: "get short"},
	{args: "get short", sleep: 5 * time.Second},
	{args: "lease list", repeat: true},
	{args: "compaction 5"},
	{args: "compaction 5"},
	{args: "compaction 100000"},
	{args: "compaction 6 --physical"},
	{args: "get --rev=4 foo"},
	{args: "get --rev=6 --prefix foo"},
	{args: "watch --rev=2 --prefix foo"},
	{args: "endpoint health", except: took},
	{args: "endpoint hashkv-not-a-command"},
	{args: "get"},
	{args: "put onlykey-too many args"},
}

type ctlTarget struct {
	endpoints []string
	calls     int
	lease     string
}

// run executes one command and returns everything that it says, and its exit code.
func (c *ctlTarget) run(t *testing.T, bin string, s ctlStep) string {
	t.Helper()
	args := strings.Fields(strings.ReplaceAll(s.args, "LEASE", c.lease))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	limited := len(args) > 0 && args[len(args)-1] == "LIMIT"
	if limited { // A watch without an end: two seconds show its history.
		args = args[:len(args)-1]
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, 2*time.Second)
		defer stop()
	}
	for i, arg := range args {
		if arg == `""` {
			args[i] = ""
		}
	}
	at := c.endpoints[c.calls%len(c.endpoints)]
	c.calls++
	cmd := exec.CommandContext(ctx, bin, append([]string{"--endpoints=" + at}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	cmd.Stdin = strings.NewReader(s.input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := out.String()
	if strings.HasPrefix(s.args, "lease grant") {
		if id := leaseID.FindString(text); id != "" {
			c.lease = id
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && !limited {
		text += fmt.Sprintf("exit %d\n", exit.ExitCode())
	}
	return c.normalize(text, s)
}

var attached = regexp.MustCompile(`attached keys\(\[(.*)\]\)`)

var logLine = regexp.MustCompile(`(?m)^\{"level".*\n`)

func (c *ctlTarget) normalize(text string, s ctlStep) string {
	text = logLine.ReplaceAllString(text, "")
	if s.except != nil {
		text = s.except.ReplaceAllString(text, "…")
	}
	// etcd lists the keys of a lease in no order.
	text = attached.ReplaceAllStringFunc(text, func(keys string) string {
		words := strings.Fields(attached.FindStringSubmatch(keys)[1])
		slices.Sort(words)
		return "attached " + strings.Join(words, " ")
	})
	return endpoint.ReplaceAllString(leaseID.ReplaceAllString(text, "ID"), "ENDPOINT")
}

// etcdctls finds Debian's etcdctl and the newest; the folder comes from DROVER_TOOLS, or is built.
func etcdctls(t *testing.T) map[string]string {
	t.Helper()
	bins := map[string]string{}
	if path, err := exec.LookPath("etcdctl"); err == nil {
		out, _ := exec.Command(path, "version").Output()
		if strings.Contains(string(out), "3.4.") {
			bins["3.4"] = path
		}
	}
	bins["3.7"] = filepath.Join(toolsDir(t), "etcdctl")
	return bins
}

var toolsOnce = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("DROVER_TOOLS"); dir != "" {
		return dir, nil
	}
	dir, err := harness.TempDir("tools")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("./build-tools.sh", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build-tools.sh: %w\n%s", err, out)
	}
	return dir, nil
})

// toolsDir holds the newest etcd and etcdctl.
func toolsDir(t *testing.T) string {
	t.Helper()
	dir, err := toolsOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEtcdctlSaysTheSame(t *testing.T) {
	bins := etcdctls(t)
	if _, ok := bins["3.4"]; !ok {
		t.Log("Debian's etcdctl 3.4 is not here")
	}
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		for version, bin := range bins {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				etcd, err := harness.StartEtcd(1)
				if err != nil {
					t.Fatal(err)
				}
				defer etcd[0].Close()
				oracle := &ctlTarget{endpoints: []string{etcd[0].Endpoint()}}
				drover := &ctlTarget{endpoints: start(t, setup).Endpoints()}
				for _, s := range ctlScript {
					time.Sleep(s.sleep)
					compareStep(t, bin, oracle, drover, s)
				}
				ctlTables(t, bin, drover)
				ctlLiveWatch(t, bin, drover)
				ctlKeepAlive(t, bin, drover)
			})
		}
	})
}

func compareStep(t *testing.T, bin string, oracle, drover *ctlTarget, s ctlStep) {
	t.Helper()
	want := make(chan string, 1)
	go func() { want <- oracle.run(t, bin, s) }()
	got := drover.run(t, bin, s)
	expected := <-want
	for try := 0; s.repeat && got != expected && try < 20; try++ {
		time.Sleep(100 * time.Millisecond)
		got = drover.run(t, bin, s)
	}
	if got != expected {
		t.Errorf("etcdctl %s\nexpected:\n%sgot:\n%s", s.args, expected, got)
		report(fmt.Sprintf("%s etcdctl %s\n  expected: %q\n  got:      %q", t.Name(), s.args, expected, got))
	}
}

// ctlTables looks at what holds names and ids: the shape must be right, the content its own.
func ctlTables(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	raw := func(args ...string) string {
		cmd := exec.Command(bin, append([]string{"--endpoints=" + strings.Join(drover.endpoints, ",")}, args...)...)
		cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
		out, err := cmd.Output()
		check(t, err == nil, "etcdctl %v: %v", args, err)
		return string(out)
	}
	status := raw("endpoint", "status", "-w", "table")
	for _, e := range drover.endpoints {
		check(t, strings.Contains(status, e), "no %s in\n%s", e, status)
	}
	check(t, strings.Contains(status, " 3.7.3 "), "no version in\n%s", status)
	check(t, strings.Count(status, " true ") >= 1, "no leader in\n%s", status)
	check(t, strings.Count(raw("endpoint", "health", "-w", "table"), " true ") == len(drover.endpoints), "health")
	members := raw("member", "list")
	check(t, strings.Count(members, "started") == len(drover.endpoints), "members:\n%s", members)
	for _, e := range drover.endpoints {
		check(t, strings.Contains(members, e), "no %s in\n%s", e, members)
	}
	raw("member", "list", "-w", "table")
	all := strings.Count(raw("--endpoints="+drover.endpoints[0], "endpoint", "status", "--cluster"), "3.7.3")
	check(t, all == len(drover.endpoints), "endpoint status --cluster shows %d", all)
}

// ctlLiveWatch: a watch that stands before the write shows it.
func ctlLiveWatch(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "--endpoints="+drover.endpoints[0], "watch", "live")
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	out, err := cmd.StdoutPipe()
	check(t, err == nil, "%v", err)
	check(t, cmd.Start() == nil, "watch does not start")
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	time.Sleep(time.Second)
	drover.run(t, bin, ctlStep{args: "put live wire"})
	drover.run(t, bin, ctlStep{args: "del live"})
	want := "PUT\nlive\nwire\nDELETE\nlive\n"
	got, buffer := "", make([]byte, 4096)
	for len(got) < len(want) {
		n, err := out.Read(buffer)
		got += string(buffer[:n])
		if err != nil {
			break
		}
	}
	got = strings.TrimRight(got, "\n") + "\n"
	check(t, got == want, "live watch: %q", got)
}

// ctlKeepAlive: a lease that is kept alive outlives its TTL, and dies when it is let go.
func ctlKeepAlive(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	drover.run(t, bin, ctlStep{args: "lease grant 3"})
	drover.run(t, bin, ctlStep{args: "put --lease=LEASE kept x"})
	cmd := exec.Command(bin, "--endpoints="+drover.endpoints[0], "lease", "keep-alive", drover.lease)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	check(t, cmd.Start() == nil, "keep-alive does not start")
	time.Sleep(7 * time.Second)
	got := drover.run(t, bin, ctlStep{args: "get kept"})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	check(t, got == "kept\nx\n", "a lease that is kept alive: %q", got)
	for range 30 {
		time.Sleep(500 * time.Millisecond)
		if drover.run(t, bin, ctlStep{args: "get kept"}) == "" {
			return
		}
	}
	t.Error("a lease that nobody keeps alive lives on")
}
