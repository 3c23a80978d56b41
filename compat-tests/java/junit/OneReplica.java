package gregor;

import net.bytebuddy.ByteBuddy;
import net.bytebuddy.agent.ByteBuddyAgent;
import net.bytebuddy.asm.Advice;
import net.bytebuddy.dynamic.loading.ClassReloadingStrategy;
import net.bytebuddy.matcher.ElementMatchers;
import org.apache.kafka.clients.admin.NewTopic;
import org.junit.platform.launcher.LauncherSession;
import org.junit.platform.launcher.LauncherSessionListener;

/** The tests were written for clusters and ask for topics of up to three replicas; one broker gives them one. */
public class OneReplica implements LauncherSessionListener {
    public static class Limit {
        @Advice.OnMethodEnter
        static void enter(@Advice.Argument(value = 2, readOnly = false) short replicas) {
            if (replicas > 1) replicas = 1;
        }
    }

    @Override
    public void launcherSessionOpened(LauncherSession session) {
        ByteBuddyAgent.install();
        new ByteBuddy().redefine(NewTopic.class)
            .visit(Advice.to(Limit.class).on(ElementMatchers.isConstructor().and(ElementMatchers.takesArguments(String.class, int.class, short.class))))
            .make().load(NewTopic.class.getClassLoader(), ClassReloadingStrategy.fromInstalledAgent());
    }
}
