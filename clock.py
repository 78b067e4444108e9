"""The schedules of this app. `python clock.py` is the clock process."""

from rq_clock import Clock, cron, every

clock = Clock()

clock.add("heartbeat", every(seconds=5), "tasks.demo.heartbeat")
clock.add("disk-space", cron("*/2 * * * *", tz="Europe/Berlin"), "tasks.demo.disk_space")
clock.add("close-minute", cron("* * * * *"), "tasks.demo.close_minute", catch_up="all")
clock.add("check-reports", every(minutes=5), "tasks.reports.scheduler.check", tags=["reports"])

if __name__ == "__main__":
    clock.run()
