package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

//go:embed addons.yaml
var addons string

// up starts the cluster unless it runs already, and waits until it is ready.
func (c *Cluster) up(nodes int, flags []string, timeout time.Duration) error {
	if err := checkPrerequisites(c.Dir); err != nil {
		return err
	}
	if nodes < 1 || nodes > 200 {
		return fmt.Errorf("--nodes %d: a cluster has 1 to 200 nodes", nodes)
	}
	if err := c.lock(); err != nil {
		return err
	}
	if c.load() != nil || !c.running() {
		if err := c.destroy(false); err != nil {
			return err
		}
		if err := c.start(nodes, flags); err != nil {
			return err
		}
	} else if c.Nodes != nodes {
		return fmt.Errorf("cluster %s is up with %d nodes, not %d: run \"cluster down\" first", c.Name, c.Nodes, nodes)
	}
	if err := c.complete(timeout); err != nil {
		log, _ := os.ReadFile(c.logPath(initName))
		return fmt.Errorf("%w\nmore is in %s; %s.log says:\n%s", err, c.path("logs"), initName, log)
	}
	c.Ready = true
	fmt.Printf("cluster %s is ready: export KUBECONFIG=%s\n", c.Name, c.path("kubeconfig"))
	return c.save()
}

// start makes the cluster's files and starts its first process.
func (c *Cluster) start(nodes int, flags []string) error {
	*c = Cluster{Name: c.Name, Dir: c.Dir, Nodes: nodes, Flags: map[string][]string{}}
	for _, flag := range flags {
		component, value, found := strings.Cut(flag, "=")
		if !found {
			return fmt.Errorf("--flag %s: should be COMPONENT=FLAG", flag)
		}
		c.Flags[component] = append(c.Flags[component], value)
	}
	// The first process gets this socket. It goes on listening in the machine's
	// network, and is the only link from there into the cluster's.
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer listener.Close()
	c.Port = listener.Addr().(*net.TCPAddr).Port
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := errors.Join(c.writeConfig(), c.save()); err != nil {
		return err
	}
	log, err := os.Create(c.logPath(initName))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", c.Dir)
	cmd.Args[0] = initName
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in new namespaces: %w", err)
	}
	c.Pid = cmd.Process.Pid
	_, c.Started = processState(c.Pid)
	return c.save()
}

// complete installs what every cluster has, once, and waits for all its parts.
func (c *Cluster) complete(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	begin := time.Now()
	objects, nodes := addons, []string{"wait", "--for=condition=Ready"}
	for i := 1; i <= c.Nodes; i++ {
		objects += fmt.Sprintf("---\n{apiVersion: v1, kind: Node, metadata: {name: %s}, spec: {podCIDR: %s, podCIDRs: [%[2]s]}}\n", nodeName(i), nodePodCIDR(i))
		nodes = append(nodes, "node/"+nodeName(i))
	}
	for _, step := range []struct {
		name string
		once bool
		do   func() error
	}{
		{"containerd", false, c.findContainerds},
		{"images", true, func() error {
			bin := filepath.Dir(executable())
			return errors.Join(c.importImage(pauseImage, []string{bin + "/pause"}), c.importImage(corednsImage, []string{bin + "/coredns"}))
		}},
		{"API server", false, func() error { return c.kubectl(ctx, "", "get", "--raw=/readyz") }},
		{"addons", true, func() error { return c.kubectl(ctx, objects, "apply", "--server-side", "--filename=-") }},
		{"nodes", false, func() error { return c.kubectl(ctx, "", nodes...) }},
		{"cluster DNS", false, func() error { return c.kubectl(ctx, "", "rollout", "status", "-n=kube-system", "deployment/coredns") }},
		{"service account", false, func() error { return c.kubectl(ctx, "", "get", "serviceaccount", "default") }},
	} {
		var last error
		for !step.once || !c.Ready {
			err := step.do()
			if err == nil {
				break
			}
			if last == nil || ctx.Err() == nil {
				last = err // rather than that its time was up
			}
			if !c.running() {
				return fmt.Errorf("the cluster ended while waiting for %s: %w", step.name, last)
			}
			if ctx.Err() != nil {
				return fmt.Errorf("timed out waiting for %s: %w", step.name, last)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if !c.Ready {
			fmt.Fprintf(os.Stderr, "%5.1fs %s\n", time.Since(begin).Seconds(), step.name)
		}
	}
	return nil
}

func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = "kubectl"
	cmd.Env = append(os.Environ(), c.env()...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (c *Cluster) down(keepLogs bool) error {
	if _, err := os.Stat(c.Dir); err != nil {
		return nil
	}
	if err := c.lock(); err != nil {
		return err
	}
	_ = c.load() // without it there is no process, but maybe files
	return c.destroy(keepLogs)
}

// destroy kills the first process, and the kernel all others of its PID
// namespace, with which the networks and mounts go; cgroups and files are left.
func (c *Cluster) destroy(keepLogs bool) error {
	for begin := time.Now(); c.running(); time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(c.Pid, syscall.SIGKILL); err != nil || time.Since(begin) > 30*time.Second {
			return fmt.Errorf("process %d does not end: %v", c.Pid, err)
		}
	}
	leftovers, _ := filepath.Glob(cgroupFS + "/*/" + c.cgroup())
	for _, cgroup := range append(leftovers, cgroupFS+"/"+c.cgroup()) {
		if err := cgroups.RemovePath(cgroup); err != nil {
			return err
		}
	}
	files, _ := filepath.Glob(c.path(nodePrefix + "*"))
	for _, name := range []string{"kubeconfig", "resolv.conf", "kubectl-cache", "pki", "etcd", "volume-plugins", "logs", "cluster.json"} {
		if name != "logs" || !keepLogs {
			files = append(files, c.path(name))
		}
	}
	for _, file := range files {
		if err := os.RemoveAll(file); err != nil {
			return err
		}
	}
	_ = os.Remove(c.Dir) // unless something else is in it
	return nil
}

func executable() string {
	path, _ := os.Readlink("/proc/self/exe")
	return path
}

// checkPrerequisites says what to install, rather than fail half-way.
func checkPrerequisites(dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces and containers need root")
	}
	for _, hidden := range []string{"/run", "/var/lib", "/var/log", "/proc", "/sys"} {
		if strings.HasPrefix(dir+"/", hidden+"/") {
			return fmt.Errorf("the workdir may not be below %s, which nodes replace by their own", hidden)
		}
	}
	for _, image := range []string{"pause", "coredns"} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(executable()), image)); err != nil {
			return fmt.Errorf("%w: it is built beside cluster", err)
		}
	}
	var missing, packages []string
	need := func(found bool, pkg, what string) {
		if !found {
			missing, packages = append(missing, what), append(packages, pkg)
		}
	}
	for program, pkg := range map[string]string{
		"containerd": "containerd", "containerd-shim-runc-v2": "containerd", "ctr": "containerd", "runc": "runc",
		"iptables": "iptables", "iptables-restore": "iptables", "mount": "mount", "nsenter": "util-linux",
	} {
		_, err := exec.LookPath(program)
		need(err == nil, pkg, program)
	}
	need(cniDir() != "", "containernetworking-plugins", "CNI plugins in "+strings.Join(cniDirs, " or "))
	if missing == nil {
		return nil
	}
	slices.Sort(packages)
	return fmt.Errorf("missing: %s; install with: apt-get install -y %s",
		strings.Join(missing, ", "), strings.Join(slices.Compact(packages), " "))
}
