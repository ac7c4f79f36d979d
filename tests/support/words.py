"""More than five hundred frequent English words, our own choice, and those that may stand beside a number."""
import re

WORDS: tuple[str, ...] = tuple(re.findall("[a-z]+", """
a able about above accept across act actually add after again against age ago agree air all allow almost alone
along already also although always among an and animal another answer any anyone anything appear apple are area
arm around arrive art as ask at away baby back bad ball bank base be bear beat beautiful because become bed been
before began begin behind being believe below best better between beyond big bird black blood blue board boat
body book born both bottom box boy bread break bring brother brought brown build built business but buy by call
came can cannot car card care carry case cat catch cause center central certain certainly chance change cheap
child children choose church city class clean clear close cold color come common company compare complete
consider contain continue control cook cool copy corner correct cost could count country couple course cover
create cross cut dance dark daughter day days dead deal dear decide deep degree did die difference different
difficult do doctor does dog dollar done door double down draw dream drink drive drop dry during each ear early
earth east easy eat edge effect eight either else empty end energy enough enter entire equal even evening ever
every everything exactly example except eye face fact fail fall false family far farm fast father fear feel feet
few fewer field fifth fight figure fill final finally find fine finish fire first fish five floor flower fly
follow food foot for force forget form found four fourth free fresh friend from front full game garden gave
general get gift girl give glass go god gold gone good got grass great green ground group grow guess had half
hand happen happy hard has hat have he head hear heart heat heavy held help her here high hill him his hit hold
home hope horse hot hour hours house how hundred hurt ice idea if in inch incorrect increase inside instead
interest into inverse iron is island it its job just keep key kind king knew know lake land language large last
late laugh law lead learn least leave left less let letter level lie life light like likely line list little
live long look lose lost lot love low machine made make man many mark market matter may maybe mean men middle
might mile million mind minus minute miss modulo money month moon more morning most mother mountain move much
multiply music must name near nearly need negative neither never new next nice night nine no none nor normal
north not nothing now number of off office often old on once one only open opposite or order other our out over
own page pair paper part pass pay people per perhaps person pick piece place plan plant play plus point poor
possible power prime probably problem product pull push put quarter question quick quite rain ran reach read
ready real really reason red remainder rest rich right river road rock room root round rule run said same sand
save saw say school sea second see seem sell send set seven several shall she ship short should show side simple
since sing sister sit six sky sleep slow small snow so some son song soon sound south space square squared stand
star start state stay step still stop street strong student sum summer sun table take talk tall teach tell ten
than that the their them then there these they thing think third this those though thousand three through time
times today together too took top total touch toward town tree true try turn twice two under undefined unit
unknown unless until up us use value very voice wait walk wall want war warm was watch water way ways we week
well went were west what when where whether which while white who whole why will wind window winter wish with
without woman women word work world would write wrong year years yes yet you young zero
"""))

THINGS: frozenset[str] = frozenset(re.findall("[a-z]+", """
animal apple baby ball bank bed bird board boat book box boy brother can car card case cat child children church
city class corner country daughter day days degree doctor dog dollar door ear edge eye face family farm father
feet field figure fish floor flower foot friend game garden gift girl glass group hand hat head heart hill hit
home horse hour hours house in inch island job key kind king lake land language letter line list machine man
mark men mile minute money month morning mother mountain name night number office order page pair paper part
people person piece place plan plant problem question river road rock room round school second set ship side
sister sky snow son song space star state step street student table thing time times town tree turn unit value
wall way ways week window winter woman women word year years total
"""))
"""Words that name what can be counted or measured: "7 days" may be read as 7."""

NEUTRAL: frozenset[str] = frozenset(
    {"a", "an", "answer", "are", "be", "exactly", "final", "is", "it", "just", "only", "the", "total", "value"})
"""Words before a number that change nothing: "only 7" may be read as 7."""
